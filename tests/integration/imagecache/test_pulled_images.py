"""Builds on images of registries through the real service: what is asked of registries, and what is told."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_contracts.streams import BUILD_STEPS
from glowplug_imagecache.objects import digest_of
from glowplug_imagecache.store import Store
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.support.bases import a_layer
from tests.support.builders_images import a_store
from tests.support.pretend_worker import PretendWorker
from tests.support.scripted_registry import ScriptedRegistry, open_scripted, status


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    async with open_scripted() as registry:
        registry.add_image(a_layer({"etc/name": b"first"}), config={"config": {"Env": ["A=b"]}})
        yield registry


def of(registry: ScriptedRegistry, name: str = "app:1") -> ImageSpec:
    return ImageSpec(base=f"{registry.host}/{name}", env={"OWN": "yes"})


async def test_a_base_is_pulled_told_and_held_by_a_worker(
    ask: Ask, worker: PretendWorker, images: LocalImages, registry: ScriptedRegistry
) -> None:
    asked = await ask(of(registry))
    assert asked.done.error is None, asked.done.error
    assert asked.done.base_python == "3.12"
    ((step, cached),) = asked.steps
    assert step.startswith(f"pull {registry.host}/app:1@sha256:")
    assert not cached
    assert "MiB in 1 layers are here" in asked.output
    for what in ("downloading", "unpacking"):
        ends = asked.moved(what)[-1]
        assert ends[0] == ends[1] > 0, what
    image = await images.ensure(asked.done.image_digest, "ctr_1")
    assert image.base is not None
    assert (image.base.root / "etc/name").read_bytes() == b"first"
    assert image.base.python == "/usr/local/bin/python3"
    assert image.python_version == "3.12"
    assert image.env == {"A": "b", "OWN": "yes"}
    await images.release("ctr_1")


@pytest.mark.parametrize(
    ("asks", "gets"), [("/etc", "/etc"), ("/gone", ""), ("/link", ""), ("/shut", "")]
)
async def test_a_working_directory_that_containers_can_not_be_in_is_not_taken(
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    registry: ScriptedRegistry,
    asks: str,
    gets: str,
) -> None:
    layer = a_layer({"etc/name": b"", "shut/x": b""}, {"link": "etc"}, shut=("shut",))
    registry.add_image(layer, tag="2", config={"config": {"WorkingDir": asks}})
    asked = await ask(of(registry, "app:2"))
    image = await images.ensure(asked.done.image_digest)
    assert image.base is not None
    assert image.base.cwd == gets


async def test_a_tag_is_asked_for_and_a_digest_that_is_known_is_not_pulled_again(
    ask: Ask, worker: PretendWorker, bus: NatsBus, registry: ScriptedRegistry
) -> None:
    first = await ask(of(registry))
    blobs = len(registry.asked("/blobs/"))
    again = await ask(of(registry))
    assert [cached for _, cached in again.steps] == [True]
    assert again.done.image_digest == first.done.image_digest
    assert len(registry.asked("/blobs/")) == blobs + 1  # the configuration, to know the platform
    registry.add_image(a_layer({"etc/name": b"moved"}))
    moved = await ask(of(registry))
    assert [cached for _, cached in moved.steps] == [False]
    assert moved.done.image_digest != first.done.image_digest
    assert len(await bus.bucket(BUILD_STEPS).entries()) == 2


async def test_a_base_that_is_named_by_its_digest_needs_no_registry_any_more(
    ask: Ask, worker: PretendWorker, registry: ScriptedRegistry
) -> None:
    digest = next(each for each in registry.manifests if each.startswith("sha256:"))
    first = await ask(of(registry, f"app@{digest}"))
    asked = len(registry.requests)
    registry.always.append(status(503))
    again = await ask(of(registry, f"app@{digest}"))
    assert again.done.image_digest == first.done.image_digest != ""
    assert len(registry.requests) == asked


async def test_what_a_registry_refuses_is_told_with_the_images_name_and_a_retry_works(
    ask: Ask, worker: PretendWorker, registry: ScriptedRegistry
) -> None:
    registry.always.append(status(503))
    down = await ask(of(registry))
    assert down.done.error is not None
    assert down.done.error.code == "registry.unavailable"
    assert f"{registry.host}/app:1 can't be pulled" in down.done.error.message
    registry.always = [status(503, on="/blobs/sha256:" + _largest(registry))]
    halfway = await ask(of(registry))
    assert halfway.done.error is not None
    assert halfway.done.error.code == "registry.unavailable"
    assert halfway.done.error.details["step"] == 1
    registry.always.clear()
    assert (await ask(of(registry))).done.error is None


def _largest(registry: ScriptedRegistry) -> str:
    name, _ = max(registry.blobs.items(), key=lambda each: len(each[1]))
    return name.removeprefix("sha256:")


async def test_a_base_whose_content_is_gone_is_pulled_again(
    ask: Ask, worker: PretendWorker, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    first = await ask(of(registry))
    for path in (tmp_path / "store" / "chunks").glob("*/*"):
        path.unlink()
    again = await ask(of(registry))
    assert [cached for _, cached in again.steps] == [False]
    assert again.done.image_digest == first.done.image_digest


async def test_files_lie_in_the_layer_of_an_image_of_a_registry(
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    imagecache: Shell,
    registry: ScriptedRegistry,
    tmp_path: Path,
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("data/x")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    step = ImageStep(kind="file", args=("data",), blob=_keep(tmp_path, buffer.getvalue()))
    spec = ImageSpec(base=f"{registry.host}/app:1", steps=(step,))
    asked = await ask(spec)
    assert asked.done.error is None, asked.done.error
    image = await images.ensure(asked.done.image_digest)
    assert (image.root / "data/x").read_bytes() == b"x"
    assert image.base is not None
    assert (image.base.root / "etc/name").read_bytes() == b"first"


def _keep(tmp_path: Path, data: bytes) -> str:
    store: Store = a_store(tmp_path / "store")
    digest = digest_of(data)
    with store.open_upload(digest, owner="default") as upload:
        upload.write(data)
        upload.finish(keep_until=None)
    return digest


async def test_the_next_version_of_an_image_stores_what_was_edited(
    ask: Ask, worker: PretendWorker, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    chance = random.Random(3)
    files = {f"lib/f{number}": chance.randbytes(900) for number in range(400)}
    for tag in ("old", "new"):
        registry.add_image(a_layer(files), tag=tag)
        asked = await ask(of(registry, f"app:{tag}"))
        assert asked.done.error is None, asked.done.error
        size = sum(path.stat().st_size for path in (tmp_path / "store/chunks").glob("*/*"))
        if tag == "old":
            before = size
            edited = {f"lib/f{number}": chance.randbytes(900) for number in range(0, 400, 40)}
            files |= edited
    # Without knowing the first version, every pack of some 32 files with one of them in it is new.
    assert size - before < 1.5 * sum(map(len, edited.values()))
