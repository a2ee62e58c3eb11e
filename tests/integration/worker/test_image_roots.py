"""Containers whose root is an image's tree: its Python, its files, nothing of the host's."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import Digest, ImageDigest
from glowplug_contracts.messages.deployment import SourceRef
from glowplug_contracts.messages.invocation import State
from glowplug_worker.ports import LocalBase, LocalImage
from glowplug_worker.runtime.choose import choose_backend

from tests.integration.worker.test_real_runner import a_call
from tests.support.builders_worker import open_worker
from tests.support.eventually import eventually
from tests.support.python_tree import VERSION, make_python_tree

APP = """
import os, subprocess, sys

def look():
    import of_the_image, json, ssl
    found = {"prefix": sys.prefix, "name": of_the_image.NAME, "path": os.environ["PATH"]}
    found["said"] = os.environ.get("SAID")
    found["root"] = sorted(os.listdir("/"))
    found["etc"] = open("/etc/own").read()
    found["passwd"] = "user:x:1000" in open("/etc/passwd").read()
    found["names"] = open("/etc/resolv.conf").read()
    found["uid"] = os.getuid()
    found["cwd"] = os.getcwd()
    found["link"] = os.readlink("/to-etc")
    for path in ("/opt/own/new", "/etc/own", "/new"):
        try:
            open(path, "a")
        except OSError as error:
            found[path] = str(error)
    with open("/tmp/new", "w") as file:
        file.write("x")
    code = "import of_the_image; print(of_the_image.NAME)"
    found["child"] = subprocess.run(
        ["python3", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return found
"""
SOURCE = Digest("5" * 64)
RESOLV_CONF = Path("/etc/resolv.conf").read_text()
IMAGE = ImageDigest("b" * 64)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_python_tree(tmp_path_factory.mktemp("tree"))
    root.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/own").write_text("the image's own\n")
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (root / "to-etc").symlink_to("etc")
    (root / "var/lib").mkdir(parents=True)
    (root / "proc").write_text("hidden by the kernel's own")
    return root


async def a_worker(name: str, bus: Any, tmp_path: Path, tree: Path) -> AsyncIterator[Any]:
    source = tmp_path / "source"
    source.mkdir()
    (source / "app.py").write_text(APP)
    layer = tmp_path / "layer"
    layer.mkdir()
    try:
        backend = await choose_backend(name, tmp_path / "probe")
    except UnavailableError as error:
        pytest.skip(f"{name} does not work here: {error}")
    async with open_worker(bus, tmp_path / "worker", backend) as service:
        images = service.workshop.images
        images.sources[SOURCE] = source
        base = LocalBase(root=tree, python="/opt/own/bin/python3", path="/opt/own/bin")
        images.layers[IMAGE] = LocalImage(
            root=layer, env={"SAID": "by the image"}, python_version=VERSION, base=base
        )
        yield service


@pytest.fixture(params=["bwrap", "oci"])
async def worker(
    request: Any, bus: Any, rest: Any, tmp_path: Path, tree: Path
) -> AsyncIterator[Any]:
    async for service in a_worker(request.param, bus, tmp_path, tree):
        yield service


@pytest.fixture
async def bare_worker(bus: Any, rest: Any, tmp_path: Path, tree: Path) -> AsyncIterator[Any]:
    async for service in a_worker("process", bus, tmp_path, tree):
        yield service


def calling(**spec: Any) -> dict[str, Any]:
    source = SourceRef(blob=SOURCE, handler="app:look")
    return {"source": source, "image_digest": IMAGE, **spec}


async def test_a_function_runs_in_the_images_tree_with_its_python(worker: Any, rest: Any) -> None:
    await rest.bound(**calling())
    await rest.run(a_call())
    await eventually(lambda: rest.ended)
    (outcome,) = rest.outcomes
    assert outcome.state is State.SUCCEEDED, outcome.error
    found = pickle.loads(outcome.result.data)
    assert found["prefix"] == "/opt/own"
    assert found["name"] == "of the image"
    assert found["child"] == "of the image\n"
    assert found["path"] == "/layer/bin:/opt/own/bin"
    assert found["said"] == "by the image"
    assert found["etc"] == "the image's own\n"
    assert found["passwd"]
    # It shares the host's network, and the image's own words are about another.
    assert found["names"] == RESOLV_CONF
    assert found["uid"] == 1000
    assert found["cwd"] == "/app"
    assert found["link"] == "etc"
    assert {"etc", "opt", "var", "to-etc", "tmp", "proc", "dev", "glowplug"} <= set(found["root"])
    for path in ("/opt/own/new", "/etc/own", "/new"):
        assert found[path], path


async def test_a_worker_without_roots_refuses_it_with_a_sentence(
    bare_worker: Any, rest: Any
) -> None:
    await rest.bind(**calling())
    failed = await rest.change("failed")
    assert failed.error.code == "image.unsupported"
    assert "have no root of their own" in failed.error.message
