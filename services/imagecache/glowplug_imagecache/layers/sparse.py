"""Files with holes: which bytes an archive holds, and where in the file they belong. Pure.

GNU tar wrote that in four ways: in the block and blocks after it (old), and in extended headers of the
versions 0.0, 0.1 and 1.0, where the last keeps the list in front of the file's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from glowplug_imagecache.layers.bounds import Bounds, corrupt, too_large
from glowplug_imagecache.layers.headers import BLOCK, number
from glowplug_imagecache.layers.pax import Extended, count

# (offset in the file, bytes)
Region = tuple[int, int]

_IN_FIRST_BLOCK: Final = 4
_IN_NEXT_BLOCKS: Final = 21
_PAIR_BYTES: Final = 24


def old_regions(
    raw: bytes, next_block: Callable[[], bytes], bounds: Bounds
) -> tuple[int, list[Region]]:
    """Return the real size and the regions of an old GNU sparse file; reads the blocks that go on."""
    size = number(raw[483:495])
    regions = list(_pairs(raw[386:482], _IN_FIRST_BLOCK))
    goes_on = raw[482]
    while goes_on:
        block = next_block()
        regions += _pairs(block, _IN_NEXT_BLOCKS)
        goes_on = block[504]
        _check_count(regions, bounds)
    return size, regions


def is_new_form(extended: Extended) -> bool:
    """Return whether the list of regions stands in front of the file's bytes (version 1.0)."""
    said = dict(extended.sparse)
    return said.get(b"major") == b"1" and said.get(b"minor") == b"0"


def real_size(extended: Extended) -> int | None:
    """Return the size with holes, or None if this is no sparse file."""
    said = dict(extended.sparse)
    value = said.get(b"realsize") or said.get(b"size")
    return None if value is None else count(value)


def real_name(extended: Extended) -> bytes | None:
    """Return the name of a sparse file whose block holds a made-up one."""
    return dict(extended.sparse).get(b"name") or None


def listed_regions(extended: Extended, bounds: Bounds) -> list[Region]:
    """Return the regions of the versions 0.0 and 0.1."""
    said = dict(extended.sparse)
    if listing := said.get(b"map"):
        numbers = [count(one) for one in listing.split(b",")]
    else:
        numbers = [
            count(value) for key, value in extended.sparse if key in (b"offset", b"numbytes")
        ]
        keys = [key for key, _ in extended.sparse if key in (b"offset", b"numbytes")]
        if keys != [b"offset", b"numbytes"] * (len(keys) // 2):
            raise corrupt("has a sparse file whose list of regions is broken")
    return _paired(numbers, bounds)


def leading_regions(next_block: Callable[[], bytes], bounds: Bounds) -> tuple[int, list[Region]]:
    """Return the bytes that a list in front of a file took (version 1.0), and its regions."""
    lines = _Lines(next_block)
    entries = lines.number()
    if entries > bounds.regions_max:
        raise too_large(f"has a file with over {bounds.regions_max} holes")
    numbers = [lines.number() for _ in range(2 * entries)]
    return lines.blocks * BLOCK, _paired(numbers, bounds)


def check_regions(regions: Sequence[Region], size: int, stored: int) -> tuple[Region, ...]:
    """Return the regions that hold something; they are in order, within the file, and all that is stored.

    Raises: InvalidRequestError (layer.corrupt).
    """
    end = 0
    for offset, length in regions:
        if offset < end or length < 0 or offset + length > size:
            raise corrupt("has a sparse file whose regions lie wrongly")
        end = offset + length
    if sum(length for _, length in regions) != stored:
        raise corrupt("has a sparse file with more or fewer bytes than its regions")
    return tuple(region for region in regions if region[1])


class _Lines:
    """Decimal numbers, one a line, over as many blocks as they take."""

    def __init__(self, next_block: Callable[[], bytes]) -> None:
        self._next_block = next_block
        self._left = b""
        self.blocks = 0

    def number(self) -> int:
        while b"\n" not in self._left:
            if len(self._left) > BLOCK:
                raise corrupt("has a sparse file whose list of regions is broken")
            self._left += self._next_block()
            self.blocks += 1
        line, _, self._left = self._left.partition(b"\n")
        return count(line)


def _pairs(data: bytes, pairs: int) -> Iterator[Region]:
    for at in range(0, pairs * _PAIR_BYTES, _PAIR_BYTES):
        offset, length = data[at : at + 12], data[at + 12 : at + 24]
        if not offset.strip(b"\x00 ") and not length.strip(b"\x00 "):
            return
        yield number(offset), number(length)


def _paired(numbers: Sequence[int], bounds: Bounds) -> list[Region]:
    if len(numbers) % 2:
        raise corrupt("has a sparse file whose list of regions is broken")
    pairs: Iterable[Region] = zip(numbers[::2], numbers[1::2], strict=True)
    regions = list(pairs)
    _check_count(regions, bounds)
    return regions


def _check_count(regions: Sequence[Region], bounds: Bounds) -> None:
    if len(regions) > bounds.regions_max:
        raise too_large(f"has a file with over {bounds.regions_max} holes")
