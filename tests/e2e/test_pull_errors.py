"""What can go wrong with an image of a registry, as a program sees it: one typed error each, and a retry works."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug.errors import GlowplugError

from tests.e2e.conftest import Running, a_platform
from tests.support.python_tree import make_python_tree
from tests.support.scripted_registry import (
    Fault,
    ScriptedRegistry,
    instead,
    only_with,
    scripted_in_a_thread,
    status,
)

DISK_MIB = 400


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = make_python_tree(tmp_path_factory.mktemp("tree"))
    root.chmod(0o755)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def registry(layer: bytes) -> Iterator[ScriptedRegistry]:
    with scripted_in_a_thread() as registry:
        config = {"config": {"Env": ["PATH=/opt/own/bin"]}}
        registry.add_image(layer, config=config)
        registry.add_image(layer, tag="arm", platform=("linux", "arm64"), config=config)
        yield registry


def refused(name: str) -> GlowplugError:
    """Return what a program gets that asks for a sandbox on an image."""
    from glowplug import Image, Sandbox

    with pytest.raises(GlowplugError) as caught:
        Sandbox(image=Image.from_registry(name)).create()
    assert "\n" not in caught.value.message
    return caught.value


def says_hello(name: str) -> str:
    from glowplug import Image, Sandbox

    with Sandbox(image=Image.from_registry(name)).create() as sandbox:
        return sandbox.process.run_code("import of_the_image; print(of_the_image.NAME)").stdout


def left_behind(data: Path) -> list[str]:
    """Return what imagecache has of an image that it could not pull: layers that came whole may wait."""
    cache = data / "imagecache"
    half = [path for path in (cache / "tmp").rglob("*") if path.is_file() and path.stat().st_size]
    return [str(path.relative_to(cache)) for path in (*half, *(cache / "chunks").glob("*/*"))]


def faults(registry: ScriptedRegistry) -> Iterator[tuple[str, str, str, list[Fault]]]:
    """Yield what is asked for, the code, a word of the sentence, and how the registry fails."""
    host = registry.host
    app = f"{host}/team/app:1"
    (blob, data) = max(registry.blobs.items(), key=lambda each: len(each[1]))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        gone = f"127.0.0.1:{nobody.getsockname()[1]}"
        yield f"{gone}/team/app:1", "registry.unavailable", gone, []
    yield app, "registry.unavailable", "503", [status(503)]
    yield app, "registry.denied", host, [only_with("somebody:else")]
    yield f"{host}/team/app:2", "registry.not_found", "no such image", []
    yield f"{host}/team/app:arm", "registry.no_platform", "linux/arm64", []
    digest = next(name for name in registry.manifests if name.startswith("sha256:"))
    yield f"{app}@{digest}", "registry.corrupt", "other bytes", [instead(b"{}", on="/manifests/")]
    yield app, "registry.corrupt", "other bytes", [instead(b"x" * len(data), on=blob)]


def test_each_thing_that_goes_wrong_is_one_typed_error_and_a_retry_works(
    platform: Running, registry: ScriptedRegistry
) -> None:
    if platform.http("GET", "/api/v1/workers").json()["workers"][0]["backend"] == "process":
        pytest.skip("containers have no root of their own here")
    before = left_behind(platform.data)
    for name, code, word, failing in faults(registry):
        registry.always[:] = failing
        error = refused(name)
        assert (error.code, word in error.message) == (code, True), (name, error)
        assert left_behind(platform.data) == before
    registry.always.clear()
    assert says_hello(f"{registry.host}/team/app:1") == "of the image\n"


@contextlib.contextmanager
def a_small_disk(place: Path) -> Iterator[None]:
    place.mkdir(parents=True)
    options = ("-t", "tmpfs", "-o", f"size={DISK_MIB}m")
    if subprocess.run(["mount", *options, "glowplug-test", place], capture_output=True).returncode:
        pytest.skip("mounting a small disk is refused here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of one's own takes root")
def test_a_full_disk_is_a_typed_error_and_a_retry_works_when_there_is_room(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glowplug.client.session import close_session

    registry.always.clear()
    name = f"{registry.host}/team/app:1"
    monkeypatch.setenv("GLOWPLUG_IMAGECACHE_REGISTRY_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("GLOWPLUG_IMAGECACHE_FREE_BYTES_MIN", str(8 << 20))
    data = tmp_path / "data"
    with a_small_disk(data / "imagecache"), a_platform(data) as running:
        if running.http("GET", "/api/v1/workers").json()["workers"][0]["backend"] == "process":
            pytest.skip("containers have no root of their own here")
        close_session()  # this test's platform is another one
        for key, value in running.env().items():
            if key.startswith("GLOWPLUG_") or key == "XDG_CONFIG_HOME":
                monkeypatch.setenv(key, value)
        ballast = data / "imagecache/ballast"
        ballast.write_bytes(bytes((DISK_MIB - 20) << 20))
        before = left_behind(data)
        error = refused(name)
        assert error.code == "registry.no_room"
        assert "bytes free" in error.message
        assert left_behind(data) == before == []
        # What the registry says of the layers fits, but what is in them does not.
        ballast.write_bytes(bytes((DISK_MIB - 60) << 20))
        error = refused(name)
        assert error.code == "registry.no_room", error
        assert left_behind(data) == []
        ballast.unlink()
        assert says_hello(name) == "of the image\n"
        close_session()
