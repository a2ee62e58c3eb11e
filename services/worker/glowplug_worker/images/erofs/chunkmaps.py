"""The map of a regular file: which blocks of which device hold which part of it. Pure.

EROFS cuts a file into chunks of 2**bits blocks, each a stretch of one device or a hole. The fewer chunks the
smaller the map, so the bits are as many as the file allows: a file whose content lies in one stretch
has one chunk, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from glowplug_contracts.trees import PIECE_BYTES, Run

from glowplug_worker.images.erofs.devices import Device
from glowplug_worker.images.erofs.disk import (
    BLOCK,
    CHUNK_48BIT,
    CHUNK_BITS_MAX,
    CHUNK_INDEX,
    CHUNK_INDEXES,
    NO_BLOCK,
    NO_BLOCK_HIGH,
    U32_MAX,
    blocks_of,
)

# Numbers of the devices in the table; 0 is the metadata image itself.
PACKS_DEVICE = 1
PIECES_DEVICE = 2

_PIECE_BLOCKS = PIECE_BYTES // BLOCK


class ChunkMap(msgspec.Struct, frozen=True, gc=False):
    """A file's map: the format that its inode says, and the indexes that follow it."""

    format: int
    indexes: bytes


class _Stretch(msgspec.Struct, frozen=True, gc=False):
    at: int
    start: int
    blocks: int


def map_of_packed(size: int, start: int) -> ChunkMap:
    """Return the map of a file of `size` bytes that lies in a pack, from a block of their device."""
    bits = (blocks_of(size) - 1).bit_length()
    return ChunkMap(_format(bits, start), _index(PACKS_DEVICE, start))


def map_of_runs(size: int, runs: Sequence[Run], device: Device) -> ChunkMap:
    """Return the map of a file that is made of runs of pieces, and holes between them."""
    blocks = blocks_of(size)
    stretches = [
        _Stretch(
            at=run.at * _PIECE_BLOCKS,
            start=device.starts[run.first],
            # A run's pieces are whole but for the last one of the file.
            blocks=min(run.count * _PIECE_BLOCKS, blocks - run.at * _PIECE_BLOCKS),
        )
        for run in runs
    ]
    bits = _bits(blocks, stretches)
    form = _format(bits, max((each.start + each.blocks for each in stretches), default=0))
    hole = CHUNK_INDEX.pack(NO_BLOCK_HIGH if form & CHUNK_48BIT else 0, 0, NO_BLOCK)
    indexes: list[bytes] = []
    for each in stretches:
        indexes += [hole] * ((each.at >> bits) - len(indexes))
        end = each.start + each.blocks
        indexes += [_index(PIECES_DEVICE, start) for start in range(each.start, end, 1 << bits)]
    indexes += [hole] * (-(-blocks >> bits) - len(indexes))
    return ChunkMap(form, b"".join(indexes))


def _bits(blocks: int, stretches: Sequence[_Stretch]) -> int:
    """Return the most bits with which no chunk is of two stretches, or half a hole."""
    bits = min(CHUNK_BITS_MAX, max(blocks - 1, 0).bit_length())
    for each in stretches:
        for edge in (each.at, each.at + each.blocks):
            if 0 < edge < blocks:
                bits = min(bits, (edge & -edge).bit_length() - 1)
    return bits


def _format(bits: int, address: int) -> int:
    return bits | CHUNK_INDEXES | (CHUNK_48BIT if address >= NO_BLOCK else 0)


def _index(device: int, start: int) -> bytes:
    return CHUNK_INDEX.pack(start >> 32, device, start & U32_MAX)
