"""When the broker of one machine is restarted because its disk was full: a pure decision.

A broker freezes a stream that it could not write, and leaves every write to it unanswered until it is started
again, whatever room there is by then. While there is none a restart would only end where it began: that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

ROOM_BYTES = 16 * 1024 * 1024
PAUSE_FIRST_S = 10.0
PAUSE_MAX_S = 300.0
# The disk was never seen full: it may only be slow, and a restart would not help it.
DOUBT_S = 20.0
# So long without a silent stream, and the next one begins anew.
STEADY_S = 60.0

Decision = Literal["", "say_full", "restart"]


class Mending:
    """Told now and then which streams are silent and how much room there is; says what to do."""

    def __init__(self) -> None:
        self._said_full = False
        self._was_full = False
        self._silent_since = -1.0
        self._pause_s = 0.0
        self._restarted_at = 0.0

    def step(self, silent: Sequence[str], free_bytes: int, now: float) -> Decision:
        """Decide. A restart is not repeated at once: it takes a while to show."""
        since_s = now - self._restarted_at
        if not silent:
            self._said_full = self._was_full = False
            self._silent_since = -1.0
            if since_s >= STEADY_S:
                self._pause_s = 0.0
            return ""
        if self._silent_since < 0:
            self._silent_since = now
        if free_bytes < ROOM_BYTES:
            said, self._said_full = self._said_full, True
            self._was_full = True
            return "" if said else "say_full"
        if not self._was_full and now - self._silent_since < DOUBT_S:
            return ""
        if self._pause_s and since_s < self._pause_s:
            return ""
        self._said_full = False
        self._restarted_at = now
        self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2 or PAUSE_FIRST_S)
        return "restart"
