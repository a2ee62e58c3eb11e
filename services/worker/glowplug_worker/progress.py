"""What user code says of its progress, slowed down to what others can use. Pure.

The first word goes out at once, later ones at most each PROGRESS_EVERY_S, and the last one always: it
waits here until its time has come. Numbers and texts come from user code and are bounded here.
"""

from __future__ import annotations

import math
from typing import Final

from glowplug_contracts.messages.record import Progress

PROGRESS_EVERY_S: Final = 0.25
MESSAGE_CHARS_MAX: Final = 1_000


def spoken(fraction: float, message: str, unix: float) -> Progress:
    """Return what a runner said, within the bounds."""
    known = math.isfinite(fraction)
    return Progress(
        fraction=min(max(fraction, 0.0), 1.0) if known else -1.0,
        message=message[:MESSAGE_CHARS_MAX],
        at=unix,
    )


class Throttled:
    """The latest word of one attempt. `last` is what was said last, told or not."""

    def __init__(self, every_s: float) -> None:
        self.last: Progress | None = None
        self._every_s = every_s
        self._told_at = -math.inf
        self._waiting = False
        self._untold = False

    def say(self, progress: Progress, now: float) -> float | None:
        """Take a word; return after how many seconds to `take` it, or None: that is arranged already."""
        self.last = progress
        self._untold = True
        if self._waiting:
            return None
        self._waiting = True
        return max(0.0, self._told_at + self._every_s - now)

    def take(self, now: float) -> Progress | None:
        """Return the word to tell now."""
        self._waiting = False
        if not self._untold:
            return None
        self._untold = False
        self._told_at = now
        return self.last
