"""The scrub inside the running service: a changed chunk is found, told, and built again."""

from __future__ import annotations

from pathlib import Path

import msgspec
from glowplug_contracts.manifests import decode_manifest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.watching import Watcher
from glowplug_runtime.service import Shell
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.support.builders_images import a_store, chunk_file
from tests.support.eventually import eventually
from tests.support.pretend_worker import PretendWorker


async def test_a_changed_chunk_is_found_and_its_image_is_built_again(
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    imagecache: Shell[ImagecacheSettings],
    tmp_path: Path,
) -> None:
    spec = ImageSpec(steps=(ImageStep(kind="run", args=("echo content > a",)),))
    image = (await ask(spec)).done.image_digest
    root = Path(imagecache.settings.data_dir)
    chunk = next(e for e in decode_manifest(a_store(root).blob(image)).entries if e.path == "a")  # type: ignore[arg-type]
    chunk_file(root, chunk.chunks[0].digest).write_bytes(b"rotten")
    imagecache.settings = msgspec.structs.replace(imagecache.settings, scrub_bytes_per_s=1 << 40)
    watcher, second = (Watcher(imagecache, a_store(root)) for _ in range(2))

    async def told() -> bool:
        await watcher.tick()
        await second.tick()
        return "1 corrupt" in imagecache.notes.get("scrub", "")

    await eventually(told)
    assert "1 images lack something: deploy again" in imagecache.notes["scrub"]
    again = await ask(spec)
    assert again.steps == [("run echo content > a", False)]
    assert again.done.image_digest == image
    assert (await images.ensure(again.done.image_digest)).root.exists()
    progress = await second.progress()  # it did not scrub: the first one has the lock
    assert [one.digest for one in progress.hurt] == [image]
    assert progress.corrupt_count == 1
    await watcher.close()
    await second.close()
