"""The bytes of a flattened tree's objects, read from the tree again.

The second half of storing an image: `flatten` has named everything, a store has said what it lacks, and only that
is read once more. What was named and what is read may differ by then, so it is compared. Blocks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from glowplug_contracts.packing import Pack
from glowplug_contracts.trees import BLOCK_BYTES, FlatTree

from glowplug_worker.images.descend import (
    Parts,
    digest_of,
    open_file,
    open_root,
    read_exactly,
    unfit,
)


class Flattened(msgspec.Struct, frozen=True):
    """A tree, and where the bytes of its objects are read: for a pack its files, for a piece one file."""

    tree: FlatTree
    packs: tuple[Pack, ...]
    pack_paths: dict[bytes, Parts]
    piece_places: tuple[tuple[Parts, int], ...]


def read_pack(root: Path, flattened: Flattened, number: int) -> bytes:
    """Return the bytes of a pack, read again. Raises: InvalidRequestError if a file changed."""
    with open_root(root) as descriptor:
        return pack_bytes(descriptor, flattened.packs[number], flattened.pack_paths)


def read_piece(root: Path, flattened: Flattened, number: int) -> bytes:
    """Return the bytes of a piece, read again. Raises: InvalidRequestError if the file changed."""
    parts, offset = flattened.piece_places[number]
    wanted = flattened.tree.pieces[number]
    with open_root(root) as descriptor, open_file(descriptor, parts) as file:
        data = os.pread(file, wanted.size, offset)
    if digest_of(data) != wanted.digest:
        raise unfit(parts, "changed while it was being stored")
    return data


def pack_bytes(root: int, pack: Pack, paths: Mapping[bytes, Parts]) -> bytes:
    """Return a pack's bytes from its files' paths. Raises: InvalidRequestError if one changed."""
    data = bytearray()
    for member in pack.members:
        data += bytes(-len(data) % BLOCK_BYTES)
        parts = paths.get(member.digest)
        if parts is None:
            raise unfit((), "is no source of a pack of another tree; ask the store for it")
        with open_file(root, parts) as file:
            content = read_exactly(file, parts, member.size, 0)
        if digest_of(content) != member.digest:
            raise unfit(parts, "changed while it was being stored")
        data += content
    return bytes(data)
