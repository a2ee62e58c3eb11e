"""Workers' lazy mounts on an imagecache, several in one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import BatchReader, ChunkFrame, encode_digests
from glowplug_contracts.tree_rules import decode_tree
from glowplug_runtime.clock import Clock
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.mounts.daemon.beside import Place
from glowplug_worker.images.mounts.daemon.served import places_of
from glowplug_worker.images.mounts.files import Whole, make_home
from glowplug_worker.images.mounts.lazy import LazyMounts, open_lazy_mounts
from glowplug_worker.images.mounts.probe import Choice, MountMethod
from glowplug_worker.images.mounts.sources import ImagecacheSource, plain

from tests.support.builders_images import TOKEN
from tests.support.counted_store import CountingStore, an_image
from tests.support.eventually import eventually

FILL_S = 30.0


@contextlib.asynccontextmanager
async def a_node(directory: Path, url: str, method: MountMethod) -> AsyncIterator[LazyMounts]:
    async with (
        open_session(TOKEN) as session,
        asyncio.TaskGroup() as tasks,
        open_lazy_mounts(
            directory,
            ImagecacheSource(StoreClient(session, lambda: url)),
            lambda: {"store": "imagecache", "urls": [url], "token": TOKEN},
            Clock(),
            lambda work, name: tasks.create_task(work, name=name),
            Choice(method, "a test"),
        ) as mounts,
    ):
        yield mounts


async def filled(mounts: LazyMounts, tree: Digest) -> None:
    await eventually(lambda: mounts.filled(tree), within_s=FILL_S)


@contextlib.contextmanager
def a_whole_tree(
    folder: Path, *, hurt: int = -1, lacks: int = -1
) -> Iterator[tuple[Digest, Whole, list[Place]]]:
    """Yield a tree as a mount has it that is all here, but for an object that is hurt, and one that is a hole."""
    store, chance = CountingStore(folder / "store"), random.Random(8)
    files = {f"large{number}": chance.randbytes(1_100_000) for number in range(3)}
    _, digest = an_image(store, folder, files)
    manifest = store.blob_path(digest).read_bytes()
    home, devices = make_home(folder / "home", digest, manifest)
    places = places_of(decode_tree(manifest), devices)
    for number, place in enumerate(places):
        data = bytearray(plain(store.chunk(place.digest)))
        data[0] ^= number == hurt
        if number != lacks:
            os.pwrite(place.file, data, place.offset)
    yield digest, Whole(home.tree, devices), places
    for file in devices:
        os.close(file)


async def ask_peer(
    url: str, digests: Sequence[Digest], token: str = TOKEN
) -> list[ChunkFrame] | int:
    """Ask a worker's door; return frames, or the status of a refusal."""
    async with (
        open_session(token) as session,
        session.post(f"{url}/chunks/get", data=encode_digests(digests)) as answer,
    ):
        if answer.status != 200:
            return answer.status
        reader = BatchReader()
        frames = list(reader.feed(await answer.read()))
        reader.finish()
        return frames
