"""A thousand starts of one image at once: each node asks for each chunk once, and two images share what they share.

Nodes are the workers' real image stores with directories of their own, in one process, against the cache
service's real door; a start is what a worker does for one (`ensure`, with the tree held for the container).
The containers themselves are left out: a thousand of them would say nothing more about who asks for chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from glowplug_contracts.ids import ImageDigest
from glowplug_imagecache.store import Store
from glowplug_worker.images import LocalImages

from tests.support.builders_images import TOKEN, open_imagecache, open_worker_images
from tests.support.counted_store import CountingStore, an_image

NODES = 4
STARTS = 1000


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


def some_files() -> dict[str, bytes]:
    chance = random.Random(4)
    files = {f"lib/f{number}": chance.randbytes(700) for number in range(300)}
    return files | {f"lib/large{number}": chance.randbytes(2_500_000) for number in range(2)}


@contextlib.asynccontextmanager
async def some_nodes(store: Store, folder: Path, count: int) -> AsyncIterator[list[LocalImages]]:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(open_imagecache(store, token=TOKEN))
        yield [
            await stack.enter_async_context(open_worker_images(folder / f"node-{number}", url))
            for number in range(count)
        ]


async def start_all(nodes: Sequence[LocalImages], image: ImageDigest, starts: int) -> None:
    found = await asyncio.gather(
        *(nodes[number % len(nodes)].ensure(image, f"ctr_{number}") for number in range(starts))
    )
    roots = {local.base.root for local in found if local.base is not None}
    assert len(roots) == len(nodes)
    for root in roots:
        assert (root / "lib/large0").stat().st_size == 2_500_000


async def test_a_thousand_starts_ask_for_each_chunk_once_on_each_node(
    store: CountingStore, tmp_path: Path
) -> None:
    image, _ = an_image(store, tmp_path, some_files())
    store.asked.clear()
    async with some_nodes(store, tmp_path, NODES) as nodes:
        await start_all(nodes, image, STARTS)
        assert len(store.asked) >= 8
        assert set(store.asked.values()) == {NODES}
        # And once it is there, nobody asks again.
        await start_all(nodes, image, NODES)
        assert set(store.asked.values()) == {NODES}
