"""What small files hold, read from their packs: for those whose manifest does not say whether they are the same.

Each pack is read once, and one is held at a time. Blocks: callers run it in threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Final

import blake3
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import BLOCK_BYTES

from glowplug_imagecache.objects import raw_form
from glowplug_imagecache.store import Store
from glowplug_imagecache.tree_views import Place

# About 10 s of reading. What lies in packs beyond them stays unsaid.
PACKS_READ_MAX: Final = 16_384


def contents_of(
    store: Store, places: Collection[Place], packs_max: int = PACKS_READ_MAX
) -> dict[Place, bytes]:
    """Return digests of what is there; places in packs that are missing or too many are left out."""
    found: dict[Place, bytes] = {}
    by_pack = itertools.groupby(sorted(places), key=lambda place: place.pack)
    for pack, inside in itertools.islice(by_pack, packs_max):
        digest = Digest(pack.hex())
        stored = store.chunk(digest).stored
        data = None if stored is None else raw_form(digest, stored)
        if data is None:
            continue
        for place in inside:
            start = place.block * BLOCK_BYTES
            if start + place.size <= len(data):
                content = data[start : start + place.size]
                found[place] = blake3.blake3(content).digest()
    return found
