"""Which files go along, and what a function is called among them."""

from __future__ import annotations

import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import pytest
from glowplug import errors
from glowplug.client import packing
from glowplug.client.packing import pack
from glowplug.client.source import Project, find_origin, find_project, find_root


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


@pytest.fixture
def load(tmp_path, monkeypatch):
    made = []

    def load(path: Path, name: str):
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        made.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in made:
        del sys.modules[name]


def test_the_nearest_marked_parent_is_the_root(tmp_path):
    tree(tmp_path, "pyproject.toml", "inner/.glowplugignore", "inner/deep/app.py")
    assert find_root(tmp_path / "inner/deep/app.py") == tmp_path / "inner"


def test_home_is_never_the_root(tmp_path):
    tree(tmp_path, ".git/config", "app.py")
    assert find_root(tmp_path / "app.py", home=tmp_path) is None


def test_ignored_files_caches_and_environments_stay_behind(tmp_path):
    tree(
        tmp_path,
        "app.py",
        "keep/data.bin",
        "build/out.o",
        "logs/a.log",
        "logs/keep.log",
        "secret.txt",
        ".git/config",
        "env/pyvenv.cfg",
        "env/lib/x.py",
        "pkg/__pycache__/a.pyc",
        "pkg/mod.py",
        "node_modules/x.js",
        "app.egg-info/PKG-INFO",
    )
    (tmp_path / ".gitignore").write_text("build/\n*.log\n")
    (tmp_path / "logs" / ".gitignore").write_text("!keep.log\n")
    (tmp_path / ".glowplugignore").write_text("secret.txt\n")
    found = names(pack(Project(tmp_path, None, ())))
    assert found == [
        ".gitignore",
        ".glowplugignore",
        "app.py",
        "keep/data.bin",
        "logs/.gitignore",
        "logs/keep.log",
        "pkg/mod.py",
    ]


def test_the_archive_depends_on_names_and_contents_only(tmp_path):
    tree(tmp_path, "b.py", "a.py")
    first = pack(Project(tmp_path, None, ()))
    (tmp_path / "a.py").touch()
    assert pack(Project(tmp_path, None, ())) == first
    (tmp_path / "a.py").write_text("changed")
    assert pack(Project(tmp_path, None, ())) != first


def test_too_much_names_the_five_largest(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BYTES_MAX", 1000)
    for number in range(7):
        (tmp_path / f"file{number}").write_bytes(b"x" * (100 + number * 50))
    with pytest.raises(errors.SourceTooLargeError) as caught:
        pack(Project(tmp_path, None, ()))
    named = [line.split()[-1] for line in str(caught.value).splitlines()[1:]]
    assert named == ["file6", "file5", "file4", "file3", "file2"]


def test_too_many_files_are_refused_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "FILES_MAX", 2)
    tree(tmp_path, "a", "b", "c")
    with pytest.raises(errors.SourceTooLargeError, match="3 files"):
        pack(Project(tmp_path, None, ()))


def test_without_a_root_the_file_takes_what_it_imports_from_its_folder(tmp_path):
    (tmp_path / "app.py").write_text("import helper\nfrom pkg import thing\nimport json, absent\n")
    (tmp_path / "helper.py").write_text("import second\n")
    (tmp_path / "second.py").write_text("import app\n")
    tree(tmp_path, "unrelated.py", "pkg/__init__.py", "pkg/thing.py", "pkg/table.csv")
    project = find_project(tmp_path / "app.py", tmp_path)
    assert project.root == tmp_path
    assert project.only == (
        "app.py",
        "helper.py",
        "pkg/__init__.py",
        "pkg/table.csv",
        "pkg/thing.py",
        "second.py",
    )


def test_a_module_in_a_sub_folder_is_shipped_under_its_own_name(tmp_path, load):
    tree(tmp_path, "pyproject.toml")
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "one.py").write_text("def f(): ...\n")
    module = load(tmp_path / "apps" / "one.py", "one")
    origin = find_origin(module.f)
    assert origin.project == Project(tmp_path, None, ("apps",))
    assert origin.module == "one"
    assert origin.handler == "_glowplug_start:f"


def test_functions_without_a_name_that_leads_to_them_travel_by_value():
    def inner(): ...

    assert find_origin(inner).handler == ""
    assert find_origin(lambda: 1).handler == ""
    namespace = {"__name__": "nowhere"}
    exec("def typed_in(): ...", namespace)
    origin = find_origin(namespace["typed_in"])
    assert (origin.project, origin.handler) == (None, "")
