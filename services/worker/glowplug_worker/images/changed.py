"""Store what a build did to its root: the changes become objects, the tree they make becomes a blob."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame, group_by_size
from glowplug_contracts.tree_changes import apply_changes
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import FlatTree, encode_tree

from glowplug_worker.images.client import StoreClient
from glowplug_worker.images.flat_objects import Flattened, read_pack, read_piece
from glowplug_worker.images.objects import frame_of
from glowplug_worker.images.upper import read_upper
from glowplug_worker.ports import Pushed, pushed_unseen
from glowplug_worker.runtime.rooted.changes import read_about


class Stored(msgspec.Struct, frozen=True):
    """A tree that is stored. Attributes: bytes_total: of its content; bytes_pushed: what was not there yet."""

    tree: Digest
    bytes_total: int
    bytes_pushed: int


async def store_changes(
    client: StoreClient, base: Digest, directory: Path, told: Pushed = pushed_unseen
) -> Stored:
    """Return the tree that `base` has become in a rooted container.

    Raises: InvalidRequestError for what a tree can't hold; OSError; PlatformError if nobody takes it.
    """
    below = await asyncio.to_thread(decode_tree, await client.get(base))
    about = await asyncio.to_thread(read_about, directory)
    upper = directory / "upper"
    read = await asyncio.to_thread(read_upper, upper, below, about.first_id, about.places)
    tree: FlatTree = await asyncio.to_thread(apply_changes, below, read.changes)
    pushed = await _push(client, upper, read.flattened, told)
    data = await asyncio.to_thread(encode_tree, tree)
    digest = await client.put(data, keep_s=0)
    total = sum(each.size for each in (*tree.packs, *tree.pieces))
    return Stored(digest, total, pushed)


async def _push(client: StoreClient, root: Path, flattened: Flattened, told: Pushed) -> int:
    tree = flattened.tree
    places = {
        **{Digest(each.digest.hex()): (read_pack, at) for at, each in enumerate(tree.packs)},
        **{Digest(each.digest.hex()): (read_piece, at) for at, each in enumerate(tree.pieces)},
    }
    sizes = {Digest(each.digest.hex()): each.size for each in (*tree.packs, *tree.pieces)}
    missing = {digest: sizes[digest] for digest in await client.missing(list(sizes))}

    def frames(batch: Sequence[Digest]) -> list[ChunkFrame]:
        made = []
        for digest in batch:
            read, number = places[digest]
            made.append(frame_of(read(root, flattened, number)))
        return made

    done, total = 0, sum(missing.values())
    for batch in group_by_size(missing):
        await told(done, total)
        await client.put_chunks(await asyncio.to_thread(frames, batch))
        done += sum(missing[digest] for digest in batch)
    await told(done, total)
    return total
