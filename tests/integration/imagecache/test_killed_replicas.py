"""kill -9 of imagecache in the middle of pushes and pulls: they finish, and what was half done harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug_contracts.ids import ImageDigest
from glowplug_imagecache.files import has_image
from glowplug_imagecache.store import TMP_KEPT_S
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.replicas import Replicas

from tests.support.builders_images import a_store, open_worker_images, read_tree, write_tree
from tests.support.cut_lines import Lines
from tests.support.imagecaches import Processes, open_imagecaches
from tests.support.nats import Server

NAMES = ("one", "two", "three")
NO_PARENT = ImageDigest("")


def a_layer(folder: Path) -> Path:
    chance = random.Random(7)
    tree: dict[str, bytes | str | None] = {
        f"site-packages/{number}.py": chance.randbytes(2000) for number in range(60)
    }
    return write_tree(folder, tree | {"big": chance.randbytes(2_500_000)})


@contextlib.asynccontextmanager
async def killed_at(processes: Processes, lines: Lines, *points: int) -> AsyncIterator[None]:
    """Kill whoever is asked at these bytes, and start it again each time."""
    lines.kill_after(*points)

    async def start_again() -> None:
        for _ in points:
            await processes.start_again(await lines.killed.get())

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(start_again())
        yield


@pytest.mark.parametrize(
    ("store", "names", "push", "pull"),
    [
        ("", NAMES[:1], (40_000, 1_500_000), (1_200_000,)),
        ("replicas", NAMES, (900_000,), (700_000,)),
    ],
    ids=["one directory", "replicas"],
)
async def test_pushes_and_pulls_finish_whenever_one_is_killed(
    bus: NatsBus,
    nats_server: Server,
    tmp_path: Path,
    store: str,
    names: tuple[str, ...],
    push: tuple[int, ...],
    pull: tuple[int, ...],
) -> None:
    layer = a_layer(tmp_path / "layer")
    async with (
        open_imagecaches(
            bus, nats_server.url, tmp_path / "replicas", *names, store=store
        ) as processes,
        Lines(processes, names).open() as lines,
    ):
        replicas = Replicas(lines.urls)
        async with (
            open_worker_images(tmp_path / "pushes", replicas) as images,
            killed_at(processes, lines, *push),
        ):
            committed = await images.commit(layer, NO_PARENT, "3.11", {})
        assert committed.error is None, committed.error
        async with (
            open_worker_images(tmp_path / "pulls", replicas) as images,
            killed_at(processes, lines, *pull),
        ):
            image = await images.ensure(committed.image_digest)
        assert read_tree(image.root) == read_tree(layer)
    for name in names:
        root = tmp_path / "replicas" / name
        if not store:
            kept = a_store(root)
            kept.sweep(time.time() + TMP_KEPT_S + 60)  # what was cut off, when nobody can be at it
            assert has_image(kept, committed.image_digest)
        assert list((root / "tmp").iterdir()) == []
