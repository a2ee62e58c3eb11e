"""What is fetched before anybody asks for it, since its neighbours were read: guesses about an unprofiled tree. Pure.

The tables of a tree are in the order of its directories, so what stands beside an object is of the same file, the same
directory, or the next one. Programs read in groups (a package's modules, a library's pieces): of 365 objects that five
imports read in an image of 4,185, the bounds below leave 144 to be waited for, and move 1.4 times the bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Final

# Beside what was read, to each side. Twice that saves a sixth of the waits, and takes as much time as it saves.
NEAR_BYTES_MAX: Final = 256 * 1024
NEAR_OBJECTS_MAX: Final = 32
# Behind what is read in order: as many as were read so far, so that little is moved where the order ends soon.
RUN_OBJECTS_MIN: Final = 2
RUN_OBJECTS_MAX: Final = 16


def guesses(number: int, sizes: Sequence[int], table: range, read: Container[int]) -> Iterator[int]:
    """Yield which objects are likely to be read soon, the likeliest first; each at most once.

    Args:
        number: what was just read.
        sizes: of all objects.
        table: the numbers of its table.
        read: all that was read so far, this one included.
    """
    after, before = range(number + 1, table.stop), range(number - 1, table.start - 1, -1)
    run = _run(number, table, read)
    behind = run if run >= RUN_OBJECTS_MIN else 0
    yield from after[:behind]
    yield from tuple(_near(after, sizes))[behind:]
    yield from _near(before, sizes)


def _near(side: Sequence[int], sizes: Sequence[int]) -> Iterator[int]:
    room = NEAR_BYTES_MAX
    for number in side[:NEAR_OBJECTS_MAX]:
        room -= sizes[number]
        if room < 0:
            return
        yield number


def _run(number: int, table: range, read: Container[int]) -> int:
    """Return how many were read in order up to this one, as far as that matters."""
    first = max(table.start, number + 1 - RUN_OBJECTS_MAX)
    for at in range(number, first - 1, -1):
        if at not in read:
            return number - at
    return number + 1 - first
