"""How many of a queue may start in a time. Pure.

The promise is about every window: in no `period_s` seconds do more than `count` start. So the starts of
the last period are remembered, as times; a limit of N needs N of them.
"""

from __future__ import annotations

import bisect


class Rate:
    """The starts of one queue, and how many are allowed. A count of 0 is no limit."""

    def __init__(self) -> None:
        self.count = 0
        self.period_s = 1.0
        self._starts: list[float] = []

    def limit(self, count: int, period_s: float) -> None:
        """Set the limit; every record of a queue says the same."""
        self.count, self.period_s = count, period_s

    def note(self, at: float, times: int = 1) -> None:
        """Something started at `at`, as often as `times`; more than the limit need not be known."""
        if self.count:
            where = bisect.bisect(self._starts, at)
            self._starts[where:where] = [at] * min(times, self.count)

    def remembers(self, now: float) -> bool:
        """Return whether a start of the last period is known."""
        return bool(self._starts) and self._starts[-1] > now - self.period_s

    def free_at(self, now: float) -> float:
        """Return when the next one may start: `now`, or later."""
        if not self.count:
            return now
        gone = bisect.bisect(self._starts, now - self.period_s)
        if gone:
            del self._starts[:gone]
        # One may start when, of the starts before it, fewer than `count` are younger than a period.
        if len(self._starts) < self.count:
            return now
        return self._starts[-self.count] + self.period_s
