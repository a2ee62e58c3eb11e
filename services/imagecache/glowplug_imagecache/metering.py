"""How far a pull is: what was read of contents is counted, and told now and then beside the work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, Protocol

from glowplug_imagecache.layers.tree import Tree

# Says what is done, how many bytes of it, and of how many.
Far = Callable[[str, int, int], Awaitable[None]]

# How often a pull says how far it is.
TELL_S: Final = 1.0


class Contents(Protocol):
    """The bytes of a tree's files, by the numbers that its entries have."""

    def read(self, content: int, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes; what is not there is zeros."""


class Counted:
    """Contents that say how much of them was read."""

    def __init__(self, contents: Contents, say: Callable[[int], None]) -> None:
        self._contents = contents
        self._say = say
        self._done = 0

    def read(self, content: int, offset: int, size: int) -> bytes:
        """Read, and count."""
        data = self._contents.read(content, offset, size)
        self._done += size
        self._say(self._done)
        return data


class Meter:
    """How far something is, in bytes. Small files are read twice and holes never, so that `done` is bounded."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self._done = 0

    @property
    def done(self) -> int:
        """Return how many bytes are done, never more than there are."""
        return min(self._done, self.total)

    def at(self, done: int) -> None:
        """Note how many bytes are done."""
        self._done = done


async def nobody(_text: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def bytes_of(tree: Tree) -> int:
    """Return the bytes of a tree's files, those of several paths once."""
    return sum(entry.about.size for entry in tree.entries() if entry.same_as is None)


async def tell_while(
    works: Collection[asyncio.Future[Any]], text: str, meter: Meter, far: Far
) -> None:
    """Tell how far works are: at once, now and then, and when all are done; return when one has failed."""
    await far(text, meter.done, meter.total)
    left = set(works)
    while left:
        done, left = await asyncio.wait(left, timeout=TELL_S, return_when=asyncio.FIRST_EXCEPTION)
        if any(work.cancelled() or work.exception() is not None for work in done):
            return
        if left:
            await far(text, meter.done, meter.total)
    await far(text, meter.total, meter.total)
