"""Where objects lie on a data device: one after the other, each from a block. Pure.

A device is a sparse file with no header. Whoever fills it writes an object's bytes at the offset that
`Device.offset_of` names, in any order; what lies between is zeros.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import msgspec
from glowplug_contracts.trees import StoredObject

from glowplug_worker.images.erofs.disk import BLOCK, blocks_of


class Device(msgspec.Struct, frozen=True):
    """A data device: the block at which each object of its table starts, and how many it has."""

    starts: tuple[int, ...]
    blocks: int

    @property
    def size(self) -> int:
        """Bytes that the device's file must have: the kernel reads whole blocks."""
        return self.blocks * BLOCK

    def offset_of(self, number: int) -> int:
        """Return the byte at which an object starts."""
        return self.starts[number] * BLOCK

    def numbers_in(self, offset: int, size: int) -> range:
        """Return the objects that a read of `size` bytes from `offset` touches."""
        if size < 1:
            return range(0)
        first = bisect.bisect_right(self.starts, offset // BLOCK) - 1
        end = bisect.bisect_left(self.starts, blocks_of(offset + size))
        return range(max(first, 0), end)


def place_objects(objects: Sequence[StoredObject], first_block: int = 0) -> Device:
    """Return a device with the objects in the order of their table, the first one at `first_block`."""
    starts: list[int] = []
    block = first_block
    for each in objects:
        starts.append(block)
        block += blocks_of(each.size)
    return Device(tuple(starts), block)
