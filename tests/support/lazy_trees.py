"""Trees in a directory store, and lazy mounts of them as a worker opens them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import blake3
import msgspec
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import FlatTree, encode_tree
from glowplug_worker.images.flat_objects import read_pack, read_piece
from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.mounts import kernel
from glowplug_worker.images.mounts.lazy import LazyMounts, Terms, open_lazy_mounts
from glowplug_worker.images.mounts.probe import Choice, MountMethod
from glowplug_worker.images.mounts.sources import DirectorySource
from glowplug_worker.runtime.leftovers import mounts_below

from tests.support.clock import FakeClock
from tests.support.eventually import eventually

MIB = 1024 * 1024


def kernel_tells_of_reads(directory: Path = Path("/tmp")) -> bool:
    """Whether this process may mount lazily on the file system of this directory."""
    probe = directory / f"probe-{os.getpid()}"
    try:
        group = kernel.open_group()
        try:
            file = os.open(probe, os.O_RDWR | os.O_CREAT)
            try:
                kernel.mark(group, file)
            finally:
                os.close(file)
        finally:
            os.close(group)
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


class Stored(msgspec.Struct, frozen=True):
    """A tree whose manifest and objects are files in a directory."""

    digest: Digest
    tree: FlatTree
    store: Path


def store_tree(root: Path, store: Path) -> Stored:
    """Put a tree's manifest and objects into a directory."""
    store.mkdir(exist_ok=True)
    flattened = flatten(root)
    for objects, read in ((flattened.tree.packs, read_pack), (flattened.tree.pieces, read_piece)):
        for number, each in enumerate(objects):
            (store / each.digest.hex()).write_bytes(read(root, flattened, number))
    manifest = encode_tree(flattened.tree)
    digest = Digest(blake3.blake3(manifest).hexdigest())
    (store / digest).write_bytes(manifest)
    return Stored(digest, flattened.tree, store)


def flip(path: Path, at: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def sums(root: Path) -> dict[str, str]:
    """Return the digest of every file below a directory."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@contextlib.asynccontextmanager
async def lazy_mounts(
    directory: Path,
    store: Path,
    clock: FakeClock | None = None,
    method: MountMethod = "fanotify",
    terms: Terms | None = None,
) -> AsyncIterator[LazyMounts]:
    """Open lazy mounts of what is in a directory store."""
    async with (
        asyncio.TaskGroup() as tasks,
        open_lazy_mounts(
            directory,
            DirectorySource(store),
            lambda: {"store": "directory", "path": str(store)},
            clock or FakeClock(),
            lambda work, name: tasks.create_task(work, name=name),
            Choice(method, "a test"),
            terms or Terms(),
        ) as mounts,
    ):
        yield mounts


def mounted_below(directory: Path) -> list[str]:
    """Return what is mounted below a directory beside the room of lazy mounts itself."""
    return [path for path in mounts_below(directory) if Path(path).name != "lazy"]


async def fill(mounts: LazyMounts, digest: Digest, tree: FlatTree) -> None:
    """Have all of a held tree here, without waiting until nobody has read for a while."""
    objects = [Digest(each.digest.hex()) for each in (*tree.packs, *tree.pieces)]
    await mounts.prefetch(digest, objects)
    await eventually(lambda: mounts.filled(digest), what="all of it is here")
