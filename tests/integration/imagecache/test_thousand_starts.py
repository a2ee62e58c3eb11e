"""A thousand starts of one image at once: each node asks for each chunk once, and two images share what they share.

Nodes are the workers' real image stores with directories of their own, in one process, against the cache
service's real door; a start is what a worker does for one (`ensure`, with the tree held for the container).
The containers themselves are left out: a thousand of them would say nothing more about who asks for chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from glowplug_contracts.ids import Digest, ImageDigest
from glowplug_contracts.manifests import ChunkFrame
from glowplug_contracts.messages.image import BaseImage, ImageManifest
from glowplug_imagecache.files import write_image
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.store import Store
from glowplug_worker.images import LocalImages

from tests.support.bases import a_layer
from tests.support.builders_images import TOKEN, a_store, open_imagecache, open_worker_images

NODES = 4
STARTS = 1000


class CountingStore(Store):
    """Counts what is read for others."""

    asked: Counter[Digest]

    def chunk(self, digest: Digest) -> ChunkFrame:
        """Count, and return the chunk."""
        self.asked[digest] += 1
        return super().chunk(digest)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    a_store(tmp_path / "store")
    store = CountingStore(tmp_path / "store", free_bytes_min=0, blob_bytes_max=1 << 30)
    store.asked = Counter()
    return store


def some_files() -> dict[str, bytes]:
    chance = random.Random(4)
    files = {f"lib/f{number}": chance.randbytes(700) for number in range(300)}
    return files | {f"lib/large{number}": chance.randbytes(2_500_000) for number in range(2)}


def an_image(
    store: Store, folder: Path, files: Mapping[str, bytes], *like: Digest
) -> tuple[ImageDigest, Digest]:
    """Store an image as a pull does; return its digest and its tree's."""
    tar = a_layer(files)
    (folder / "layer").write_bytes(tar)
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    tree = flatten_layers(store, [(folder / "layer", diff_id)], like=like).digest
    base = BaseImage(
        reference="r@sha256:0", platform="linux/amd64", tree=tree, python="/bin/python3"
    )
    manifest = ImageManifest(host="", python_version="3.12", entries=(), base=base)
    return write_image(store, manifest), tree


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
