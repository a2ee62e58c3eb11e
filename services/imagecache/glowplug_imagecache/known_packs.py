"""Packs of images that a workspace has, for the next image of it to use again.

What a pack holds is known to who made it, not to a tree's manifest; so it is read from the packs. The next
version of an image then has new packs for what is new, and not for every file that lay beside it.
Nothing here is believed by its name alone: each file is found by the BLAKE3 of the bytes that the pack has now.
Blocks: callers run it in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import blake3
import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest
from glowplug_contracts.packing import Pack, SmallFile
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import BLOCK_BYTES, FlatTree, PackedFile, StoredObject

from glowplug_imagecache.objects import raw_form
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

# Of a workspace's images, those that are read: the likeliest first.
TREES_MAX: Final = 2
# Of all of them together; some 5 s of reading.
PACKS_READ_MAX: Final = 8192
# No content's: what lies in a pack for a file of some other image.
_NOBODY: Final = b""


def known_packs(
    store: Store, trees: Sequence[Digest], check: Callable[[], None] = lambda: None
) -> list[Pack]:
    """Return the packs of some trees with what is in them; what is not there any more is left out.

    Args:
        trees: the likeliest to have what is wanted first.
        check: called now and then; what it raises ends the work.
    """
    found: dict[bytes, Pack] = {}
    for digest in trees[:TREES_MAX]:
        try:
            tree = decode_tree(store.blob(digest, wanted=False))
        except PlatformError as err:
            log.info("tree.unreadable", tree=digest, error=str(err))
            continue
        files = _files_by_pack(tree)
        for number, stored in enumerate(tree.packs):
            check()
            if stored.digest in found:
                continue
            if len(found) >= PACKS_READ_MAX:
                return list(found.values())
            pack = _read(store, stored, files.get(number, {}))
            if pack is not None:
                found[stored.digest] = pack
    return list(found.values())


def _files_by_pack(tree: FlatTree) -> dict[int, dict[int, int]]:
    """Return of each pack of a tree the sizes of its files, by the block at which they start."""
    found: dict[int, dict[int, int]] = {}
    for entry in tree.entries:
        if isinstance(entry, PackedFile):
            found.setdefault(entry.pack, {})[entry.block] = entry.size
    return found


def _read(store: Store, stored: StoredObject, files: Mapping[int, int]) -> Pack | None:
    """Return a pack with its files, and with what no file of this tree is in; None if it is not there."""
    digest = Digest(stored.digest.hex())
    kept = store.chunk(digest).stored
    data = None if kept is None else raw_form(digest, kept)
    if data is None:
        return None
    return Pack(members=tuple(_members(data, files)), digest=stored.digest)


def _members(data: bytes, files: Mapping[int, int]) -> Iterator[SmallFile]:
    at = 0
    for block, size in sorted(files.items()):
        start = block * BLOCK_BYTES
        if start > at:
            yield SmallFile(_NOBODY, start - at)
        yield SmallFile(blake3.blake3(data[start : start + size]).digest(), size)
        at = start + size + -size % BLOCK_BYTES
    if len(data) > at:
        yield SmallFile(_NOBODY, len(data) - at)
