"""Which small files share a pack: what names the objects of a tree (`trees.py`). Pure.

A pack is one object, so one file that changes makes a new one of it: packs must stay what they are when
neighbours come and go. So the content itself says where a pack ends (about one file in PACK_FILES_USUAL
does), and files that a known image has in a pack already stay in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from glowplug_contracts.tree_rules import PACK_BYTES_MAX
from glowplug_contracts.trees import BLOCK_BYTES

# Some 300 KiB of Python sources. Fewer files: more objects to ask for; more: more that changes with one.
PACK_FILES_USUAL = 32
# A known pack is used again if at least one in so many of its bytes is wanted: the rest is moved in vain.
WANTED_ONE_IN = 2


class SmallFile(msgspec.Struct, frozen=True, gc=False):
    """A small file's content: the 32 bytes of its BLAKE3, and its size."""

    digest: bytes
    size: int


class Pack(msgspec.Struct, frozen=True):
    """What a pack holds, in order, each from a block. `digest` is its own name where that is known."""

    members: tuple[SmallFile, ...]
    digest: bytes = b""

    @property
    def size(self) -> int:
        """Bytes from the pack's start to the end of its last file."""
        return sum(map(_whole_blocks, self.members[:-1])) + self.members[-1].size

    def blocks(self) -> Iterable[tuple[SmallFile, int]]:
        """Yield each file with the block at which it starts."""
        at = 0
        for member in self.members:
            yield member, at // BLOCK_BYTES
            at += _whole_blocks(member)


def plan_packs(files: Sequence[SmallFile], known: Sequence[Pack] = ()) -> list[Pack]:
    """Return packs that hold every content once: known ones worth it, then new ones.

    Args:
        files: in the tree's order; the same content may be there many times.
        known: packs of images that a worker is likely to have, the likeliest first.
    """
    wanted = {file.digest: file for file in files}
    packs: list[Pack] = []
    for pack in known:
        useful = sum(_whole_blocks(each) for each in pack.members if each.digest in wanted)
        if useful * WANTED_ONE_IN >= sum(map(_whole_blocks, pack.members)):
            packs.append(pack)
            for each in pack.members:
                wanted.pop(each.digest, None)
    return packs + _new_packs(wanted)


def _new_packs(wanted: Mapping[bytes, SmallFile]) -> list[Pack]:
    packs: list[Pack] = []
    members: list[SmallFile] = []
    room = PACK_BYTES_MAX
    for file in wanted.values():
        if members and _whole_blocks(file) > room:
            packs.append(Pack(tuple(members)))
            members, room = [], PACK_BYTES_MAX
        members.append(file)
        room -= _whole_blocks(file)
        if _ends_pack(file):
            packs.append(Pack(tuple(members)))
            members, room = [], PACK_BYTES_MAX
    return [*packs, Pack(tuple(members))] if members else packs


def _ends_pack(file: SmallFile) -> bool:
    return int.from_bytes(file.digest[:4], "little") % PACK_FILES_USUAL == 0


def _whole_blocks(file: SmallFile) -> int:
    return file.size + -file.size % BLOCK_BYTES
