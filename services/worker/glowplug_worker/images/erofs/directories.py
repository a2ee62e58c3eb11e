"""Directories: blocks of entries sorted by name, which the kernel searches by halves. Pure.

A block is a row of fixed records, then their names; "." and ".." are sorted among the others. Blocks are
filled one after the other, so the last one alone may be short.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import msgspec

from glowplug_worker.images.erofs.disk import BLOCK, DIRENT, DIRENT_BYTES

# One entry of a directory: a name, the number of its inode, and its type. Tuples, since there are
# as many of them as files, and they sort by their names.
Link = tuple[bytes, int, int]

_DOTS = 2 * DIRENT_BYTES + len(b"." + b"..")


class DirectorySize(msgspec.Struct, frozen=True, gc=False):
    """How a directory falls into blocks: how many entries each has, and the bytes of the last."""

    counts: tuple[int, ...]
    tail: int

    @property
    def size(self) -> int:
        """The directory's size in bytes."""
        return (len(self.counts) - 1) * BLOCK + self.tail


def measure(names: Sequence[bytes]) -> DirectorySize:
    """Return how a directory with these sorted names, and the two dots, falls into blocks."""
    used = _DOTS + DIRENT_BYTES * len(names) + sum(map(len, names))
    if used <= BLOCK:
        return DirectorySize((len(names) + 2,), used)
    counts: list[int] = []
    used = count = 0
    for name in with_dots(names):
        need = DIRENT_BYTES + len(name)
        if used + need > BLOCK:
            counts.append(count)
            used = count = 0
        used += need
        count += 1
    return DirectorySize((*counts, count), used)


def with_dots(names: Sequence[bytes]) -> list[bytes]:
    """Return sorted names with "." and ".." where they belong."""
    found = list(names)
    bisect.insort(found, b".")
    bisect.insort(found, b"..")
    return found


def directory_bytes(size: DirectorySize, links: Sequence[Link]) -> bytes:
    """Return the content of a directory. `links`: all of its entries, sorted, with the dots."""
    rest = iter(links)
    blocks = [_block(list(itertools.islice(rest, count))) for count in size.counts]
    return b"".join([block.ljust(BLOCK, b"\0") for block in blocks[:-1]] + blocks[-1:])


def _block(links: Sequence[Link]) -> bytes:
    records: list[bytes] = []
    at = DIRENT_BYTES * len(links)
    for name, number, kind in links:
        records.append(DIRENT.pack(number, at, kind))
        at += len(name)
    return b"".join(records + [link[0] for link in links])
