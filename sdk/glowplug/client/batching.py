"""How many inputs of a map go into one request: pure.

Nothing is known at first, so inputs go one by one, a few at once and then, while no answer comes, more
and more: an input that runs for long shows the platform a backlog to scale out for. Measured run times
then size batches so that one takes about BATCH_TARGET_MS; answers of large results keep them small.
"""

from __future__ import annotations

from dataclasses import dataclass

from glowplug_contracts.messages.http import BATCH_BYTES_MAX, BATCH_INPUTS_MAX

BATCH_TARGET_MS = 50.0
RESULT_BYTES_TARGET = 1024 * 1024
IN_FLIGHT_FIRST = 16
IN_FLIGHT_MAX = 256
IN_FLIGHT_BATCHES_MAX = 64
RAMP_S = 0.25
GROWTH = 64
SMOOTHING = 0.2


@dataclass(frozen=True)
class Measured:
    """What one input of a function takes: milliseconds, and bytes of its result."""

    run_ms: float
    result_bytes: float


class BatchSizer:
    """Learns from outcomes; says how large the next batch is and whether one more may be sent."""

    def __init__(self, known: Measured | None = None) -> None:
        self._run_ms = known.run_ms if known else None
        self._result_bytes = known.result_bytes if known else 0.0
        self._size = 1
        self._first_sent_at: float | None = None
        if known:
            self._size = self._wanted()

    @property
    def measured(self) -> Measured | None:
        """What the next map over the same function may start from."""
        return None if self._run_ms is None else Measured(self._run_ms, self._result_bytes)

    @property
    def size(self) -> int:
        """Inputs for the next batch."""
        return self._size

    def sent(self, now: float) -> None:
        """Note that a batch was sent."""
        if self._first_sent_at is None:
            self._first_sent_at = now

    def ended(self, run_ms: float, result_bytes: int) -> None:
        """Note how one input went."""
        if self._run_ms is None:
            self._run_ms, self._result_bytes = run_ms, float(result_bytes)
        else:
            self._run_ms += SMOOTHING * (run_ms - self._run_ms)
            self._result_bytes += SMOOTHING * (result_bytes - self._result_bytes)

    def learned(self) -> None:
        """Choose the next size from what was noted; at most GROWTH times the one before."""
        if self._run_ms is not None:
            self._size = min(self._wanted(), self._size * GROWTH)

    def _wanted(self) -> int:
        by_time = BATCH_TARGET_MS / max(self._run_ms or 0.0, 0.01)
        by_bytes = RESULT_BYTES_TARGET / max(self._result_bytes, 1.0)
        return max(1, int(min(by_time, by_bytes, BATCH_INPUTS_MAX)))

    def may_send(self, batches_in_flight: int, now: float) -> bool:
        """Return whether one more batch may be in flight."""
        if self._run_ms is not None:
            return batches_in_flight < (IN_FLIGHT_MAX if self._size == 1 else IN_FLIGHT_BATCHES_MAX)
        return batches_in_flight < self.in_flight_before_answers(now)

    def in_flight_before_answers(self, now: float) -> int:
        """Return how many single inputs may be out while nothing has come back."""
        if self._first_sent_at is None:
            return IN_FLIGHT_FIRST
        doublings = int((now - self._first_sent_at) / RAMP_S)
        return int(min(IN_FLIGHT_FIRST * 2 ** min(doublings, 16), IN_FLIGHT_MAX))


def fits(count: int, size: int, more: int, wanted: int) -> bool:
    """Return whether an input of `more` bytes still goes into a batch of `count` with `size` bytes.

    One input always fits: it may be larger than a whole batch.
    """
    return count == 0 or (count < wanted and size + more <= BATCH_BYTES_MAX)
