"""From a registry to a running function: pulled with a secret, its files and Python, and told what goes wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from glowplug.errors import GlowplugError
from glowplug_worker.images.mounts.probe import try_all

from tests.e2e.conftest import APPS, Running
from tests.support.python_tree import make_python_tree
from tests.support.scripted_registry import ScriptedRegistry, only_with, scripted_in_a_thread

PASSWORD = "sesame-" + os.urandom(8).hex()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedRegistry]:
    root = make_python_tree(tmp_path_factory.mktemp("tree"))
    root.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/own").write_text("the image's")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".")
    config = {"Env": ["PATH=/opt/own/bin", "SAID=by the image"]}
    with scripted_in_a_thread() as registry:
        registry.add_image(buffer.getvalue(), config={"config": config})
        registry.always.append(only_with(f"builder:{PASSWORD}"))
        yield registry


@pytest.fixture(scope="module")
def logins(platform: Running) -> Iterator[Running]:
    """The platform, with a right and a wrong secret."""
    keep_secret(platform, "login", PASSWORD)
    keep_secret(platform, "wrong", "not-it")
    yield platform
    for name in ("login", "wrong"):
        assert platform.http("DELETE", f"/api/v1/secrets/{name}").status < 300


def keep_secret(running: Running, name: str, password: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "glowplug.cli.main", "secret", "create", name],
        env=running.env(),
        input=f"REGISTRY_USERNAME=builder\nREGISTRY_PASSWORD={password}\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def pulled(logins: Running, registry: ScriptedRegistry) -> Iterator[Any]:
    os.environ["PULLED_IMAGE"] = f"{registry.host}/team/app:1"
    sys.path.insert(0, str(APPS))
    try:
        import pulled

        yield pulled
    finally:
        sys.path.remove(str(APPS))
        del os.environ["PULLED_IMAGE"]


def rooted(running: Running) -> bool:
    return running.http("GET", "/api/v1/workers").json()["workers"][0]["backend"] != "process"


def test_a_function_runs_on_an_image_of_a_registry(
    pulled: Any, platform: Running, registry: ScriptedRegistry
) -> None:
    if not rooted(platform):
        pytest.skip("containers have no root of their own here")
    found = pulled.look.remote("/etc/own")
    assert found == {
        "prefix": "/opt/own",
        "module": "of the image",
        "held": "the image's",
        "said": "by the image",
        "own": "the program's",
    }
    blobs = len(registry.asked("/blobs/"))
    pulled.look.remote("/etc/own")
    assert len(registry.asked("/blobs/")) == blobs


def test_the_worker_says_how_images_come_to_it(platform: Running) -> None:
    """Mounted before their files are here where that works, else extracted, and why."""
    parts = platform.http("GET", "/health").json()["parts"]
    said = parts["worker"]["instances"][0]["notes"]["images"]
    method, _, why = said.partition(": ")
    data = platform.data / "worker-1"
    assert method == try_all(data if data.is_dir() else platform.data).method
    assert len(why) > 20


def test_a_sandbox_runs_on_it_too(pulled: Any, platform: Running) -> None:
    if not rooted(platform):
        pytest.skip("containers have no root of their own here")
    from glowplug import Sandbox

    with Sandbox(image=pulled.image).create() as sandbox:
        said = sandbox.process.run_code("import of_the_image; print(of_the_image.NAME)")
        assert said.stdout == "of the image\n"
        done = sandbox.process.exec("/bin/sh", "-c", "echo $SAID; pwd")
        assert done.stdout.splitlines()[0] == "by the image"


def test_what_goes_wrong_is_one_sentence(
    pulled: Any, platform: Running, registry: ScriptedRegistry
) -> None:
    from glowplug import Image, Sandbox

    for image, says in (
        (Image.from_registry(f"{registry.host}/team/app:1", credentials="wrong"), "refuses"),
        (Image.from_registry(f"{registry.host}/team/app:2", credentials="login"), "no such image"),
        (Image.from_registry(f"{registry.host}/team/app:1", credentials="lacking"), "no secret"),
    ):
        with pytest.raises(GlowplugError, match=says) as caught:
            Sandbox(image=image).create()
        assert "\n" not in str(caught.value)


def test_the_password_is_nowhere(pulled: Any, platform: Running) -> None:
    for path in platform.data.parent.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert PASSWORD.encode() not in path.read_bytes(), path
