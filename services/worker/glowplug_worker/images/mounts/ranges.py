"""Which bytes of a file are there: stretches that grow together. Pure, standard library only."""

from __future__ import annotations

import bisect


class Ranges:
    """Stretches of a file, each from a byte to before another."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` to before `end`."""
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def covers(self, start: int, end: int) -> bool:
        """Return whether all bytes from `start` to before `end` are there."""
        at = bisect.bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and end <= self._ends[at])

    def __len__(self) -> int:
        """Return how many stretches there are."""
        return len(self._starts)
