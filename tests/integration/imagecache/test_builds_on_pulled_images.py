"""Packages and commands on top of an image of a registry, inside containers that have its tree as their root."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_runtime.service import Shell
from glowplug_worker.images.kit import find_uv

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_builds_on_a_worker import real_worker, run
from tests.support.builders_images import open_worker_images
from tests.support.python_tree import VERSION, make_python_tree
from tests.support.scripted_registry import ScriptedRegistry, open_scripted
from tests.support.wheels import make_wheel

__all__ = ["real_worker"]
PIP = ImageStep(kind="pip", args=("cowsay==6.1",))


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ScriptedRegistry]:
    root = make_python_tree(tmp_path / "tree", needed_by=[find_uv()])
    root.chmod(0o755)
    make_wheel(root / "wheels")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".")
    async with open_scripted() as registry:
        registry.add_image(
            buffer.getvalue(), config={"config": {"Env": ["PATH=/opt/own/bin:/bin"]}}
        )
        yield registry


@pytest.mark.parametrize("real_worker", ["bwrap"], indirect=True)
async def test_packages_and_commands_are_added_to_an_image_of_a_registry(
    ask: Ask, real_worker: Shell, imagecache: Shell, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    look = "python3 -c 'import sys, of_the_image; print(sys.prefix, of_the_image.NAME)' > seen"
    spec = ImageSpec(base=f"{registry.host}/app:1", steps=(run(look),))
    again = await ask(spec)
    assert again.done.error is None, (again.done.error, again.output)
    assert again.done.base_python == VERSION
    async with open_worker_images(tmp_path / "other", imagecache.url) as images:
        image = await images.ensure(again.done.image_digest)
        assert (image.root / "seen").read_text() == "/opt/own of the image\n"
        assert image.base is not None
        assert (image.base.root / "opt/own/bin/python3").is_file()
    lines = ("--no-index", "--find-links /wheels", "tiny==1.0")
    use = "python3 -c 'import tiny; print(tiny.__cached__)' > compiled"
    tiny = ImageSpec(base=spec.base, steps=(ImageStep(kind="pip", args=lines), run(use)))
    built = await ask(tiny)
    assert built.done.error is None, (built.done.error, built.output)
    async with open_worker_images(tmp_path / "again", imagecache.url) as images:
        root = (await images.ensure(built.done.image_digest)).root
        # Compiled by the image's own Python, and trusted without a look at the source.
        (compiled,) = (root / "site-packages/__pycache__").glob("tiny.*.pyc")
        assert compiled.read_bytes()[4] == 1
        assert (
            (root / "compiled")
            .read_text()
            .strip()
            .endswith(f"site-packages/__pycache__/{compiled.name}")
        )
    packages = await ask(ImageSpec(base=spec.base, steps=(PIP, run("python3 -c 'import cowsay'"))))
    if packages.done.error and "error sending request" in packages.output:
        pytest.skip("no package index can be reached from here")
    assert packages.done.error is None, (packages.done.error, packages.output)
