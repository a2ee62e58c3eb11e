"""Lazily mounted images: a thousand starts fetch each chunk once a node, and two images share what they share."""

from __future__ import annotations

import asyncio
import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from glowplug_imagecache.objects import stored_form
from glowplug_worker.images.mounts.probe import MountMethod, why_not_fanotify, why_not_fuse

from tests.support.builders_images import TOKEN, open_imagecache
from tests.support.counted_store import CountingStore, an_image
from tests.support.lazy_nodes import a_node, filled

NODES = 2
STARTS = 1000
READERS = 8
SMALL = 300

pytestmark = pytest.mark.root


@pytest.fixture(params=["fanotify", "fuse"])
def method(request: pytest.FixtureRequest, tmp_path: Path) -> MountMethod:
    why = {"fanotify": why_not_fanotify, "fuse": why_not_fuse}[request.param](tmp_path)
    if why:
        pytest.skip(why)
    return request.param


async def test_a_thousand_starts_ask_for_each_chunk_once_on_each_node(
    tmp_path: Path, method: MountMethod
) -> None:
    store = CountingStore(tmp_path / "store")
    chance = random.Random(5)
    files = {f"lib/f{number}": chance.randbytes(700) for number in range(SMALL)}
    files["large"] = chance.randbytes(2_500_000)
    _, tree = an_image(store, tmp_path, files)
    store.asked.clear()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(open_imagecache(store, token=TOKEN))
        nodes = [
            await stack.enter_async_context(a_node(tmp_path / f"node-{number}", url, method))
            for number in range(NODES)
        ]

        # Not the loop's own threads: the cache service in this process needs those to answer.
        readers = stack.enter_context(ThreadPoolExecutor(READERS))
        loop = asyncio.get_running_loop()

        async def start(number: int) -> bool:
            held = await nodes[number % NODES].hold(tree, f"ctr_{number}")
            name = f"lib/f{number % SMALL}"
            return await loop.run_in_executor(readers, (held.root / name).read_bytes) == files[name]

        assert all(await asyncio.gather(*map(start, range(STARTS))))
        for mounts in nodes:
            await filled(mounts, tree)
        assert len(store.asked) >= 8
        assert set(store.asked.values()) == {NODES}
        for number in range(STARTS):
            await nodes[number % NODES].release(tree, f"ctr_{number}")


async def test_an_image_that_shares_nine_tenths_with_one_that_is_here_moves_the_rest(
    tmp_path: Path, method: MountMethod
) -> None:
    store = CountingStore(tmp_path / "store")
    chance = random.Random(6)
    first = {f"lib/f{number}": chance.randbytes(2_000) for number in range(SMALL)}
    first |= {f"large{number}": chance.randbytes(500_000) for number in range(10)}
    new = {f"lib/f{number}": chance.randbytes(2_000) for number in range(0, SMALL, 10)}
    new["large3"] = chance.randbytes(500_000)
    _, tree = an_image(store, tmp_path, first)
    _, other = an_image(store, tmp_path, first | new, tree)
    async with (
        open_imagecache(store, token=TOKEN) as url,
        a_node(tmp_path / "node", url, method) as mounts,
    ):
        await mounts.hold(tree, "ctr_1")
        await filled(mounts, tree)
        whole = store.asked_bytes()
        store.asked.clear()
        held = await mounts.hold(other, "ctr_2")
        await filled(mounts, other)
        for name, content in (first | new).items():
            assert (held.root / name).read_bytes() == content
        moved = store.asked_bytes()
        for each, holder in ((tree, "ctr_1"), (other, "ctr_2")):
            await mounts.release(each, holder)
    assert moved <= 1.1 * sum(len(stored_form(content)) for content in new.values())
    assert moved < whole / 8
