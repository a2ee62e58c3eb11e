"""Describing images."""

from __future__ import annotations

import pytest
from glowplug import Image, Secret
from glowplug.client.blobs import tar_of


def test_each_call_is_a_step_and_leaves_the_image_before_it_alone(tmp_path):
    base = Image(python_version="python3.11", python_packages=["a==1"], commands=["make"])
    more = base.pip_install("b", ["c"]).run_commands("x", ["y"]).add_local_file(tmp_path, "data/f")
    assert [(step.kind, step.arguments) for step in more.steps] == [
        ("pip", ("a==1",)),
        ("run", ("make",)),
        ("pip", ("b", "c")),
        ("run", ("x",)),
        ("run", ("y",)),
        ("file", ("data/f",)),
    ]
    assert len(base.steps) == 2
    assert base.python_version == "3.11"


def test_environment_adds_up():
    image = Image(env_vars={"A": "1", "B": "2"}).env({"B": "3"}, C="4")
    assert dict(image.environment) == {"A": "1", "B": "3", "C": "4"}
    assert dict(Image(env_vars=["A=1=2"]).environment) == {"A": "1=2"}


@pytest.mark.parametrize("version", ["3", "python3", ""])
def test_any_python_3_is_the_platform_s(version):
    assert Image(python_version=version).python_version == ""


@pytest.mark.parametrize("version", ["2.7", "3.11.4", "py311"])
def test_other_versions_are_refused(version):
    with pytest.raises(ValueError, match="python_version"):
        Image(python_version=version)


def test_paths_stay_inside_the_layer():
    with pytest.raises(ValueError, match="inside"):
        Image().add_local_dir(".", "../etc")


def test_missing_imports_pass_in_the_imports_block_only():
    with Image().imports():
        import not_there_at_all  # noqa: F401
    with pytest.raises(ZeroDivisionError), Image().imports():
        _ = 1 / 0


def test_the_tar_of_a_folder_is_the_same_every_time(tmp_path):
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "b.txt").write_text("b")
    (folder / "a.txt").write_text("a")
    first = tar_of(folder, "models")
    (folder / "a.txt").touch()
    assert tar_of(folder, "models") == first
    with pytest.raises(FileNotFoundError):
        tar_of(tmp_path / "absent", "x")


def test_system_packages_are_for_images_with_a_root_of_their_own():
    image = Image(base_image="debian:12", system_packages=["curl"]).apt_install("git", ["jq=1.6"])
    assert [(step.kind, step.arguments) for step in image.steps] == [
        ("apt", ("curl",)),
        ("apt", ("git", "jq=1.6")),
    ]
    for ask in (lambda: Image(system_packages=["curl"]), lambda: Image().apt_install("curl")):
        with pytest.raises(ValueError, match="from_registry"):
            ask()
    with pytest.raises(TypeError, match="a list"):
        Image(base_image="debian:12", system_packages="curl")


def test_secrets_are_those_of_the_steps_after_them():
    image = Image(commands=["a"]).with_secrets(["one"]).pip_install("b", secrets=["two"])
    image = image.run_commands("c", secrets=[Secret("three", ["KEY"])]).run_commands("d")
    assert [[one.name for one in step.secrets] for step in image.steps] == [
        [],
        ["one", "two"],
        ["one", "three"],
        ["one"],
    ]
    first = Image(commands=["a"], python_packages=["b"], secrets=["one"])
    assert {one.name for step in first.steps for one in step.secrets} == {"one"}
    with pytest.raises(TypeError, match="a list"):
        Image().with_secrets("one")


def test_force_is_said_of_a_step_or_of_the_whole():
    image = Image(base_image="debian:12").pip_install("a").apt_install("b", force_build=True)
    image = image.run_commands("c", "d", force_build=True).pip_install("e", force_build=True)
    assert [step.force for step in image.steps] == [False, True, True, True, True]
    assert not image.force
    assert Image.from_registry("debian:12", force_build=True).run_commands("x").force
