"""Which runner process runs which invocation of one container. Pure.

A slot is room for one invocation (its inputs run in it one after the other). Process and slot are
given to an invocation together and come back together.

Invariants: S1 no process holds more invocations than its concurrency; S2 an invocation is in at most
one process; S3 nothing is given while draining.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum


class Refusal(StrEnum):
    """Why an invocation was not taken."""

    DRAINING = "draining"
    FULL = "full"
    KNOWN = "known"


class Slots:
    """The slots of one container."""

    def __init__(self, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._in_flight: dict[str, int] = {}
        self._load: dict[int, int] = {}
        self.draining = False

    @property
    def busy(self) -> bool:
        """Return whether anything is in flight."""
        return bool(self._in_flight)

    @property
    def free(self) -> int:
        """Return how many invocations would be taken now."""
        return 0 if self.draining else len(self._load) * self._concurrency - len(self._in_flight)

    def open(self, process: int) -> None:
        """Add a runner process that is ready."""
        self._load.setdefault(process, 0)

    def take(self, invocation_id: str) -> int | Refusal:
        """Give the invocation to the process with the fewest (the lowest number among equals)."""
        if self.draining:
            return Refusal.DRAINING
        if invocation_id in self._in_flight:
            return Refusal.KNOWN
        if self.free <= 0:
            return Refusal.FULL
        process = min(self._load, key=lambda each: (self._load[each], each))
        self._load[process] += 1
        self._in_flight[invocation_id] = process
        return process

    def release(self, invocation_id: str) -> bool:
        """Free the invocation's slot; return whether it held one."""
        process = self._in_flight.pop(invocation_id, None)
        if process is None:
            return False
        self._load[process] -= 1
        return True

    def drain(self) -> None:
        """Take nothing any more."""
        self.draining = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_flight)

    def __len__(self) -> int:
        return len(self._in_flight)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        for process, load in self._load.items():
            assert 0 <= load <= self._concurrency, f"S1 {process}"  # noqa: S101
            held = sum(1 for each in self._in_flight.values() if each == process)
            assert held == load, f"S2 {process}"  # noqa: S101
