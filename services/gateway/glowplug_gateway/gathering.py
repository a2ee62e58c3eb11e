"""Decide which waiting submissions are written alone, and which together.

Second step of durable work: what was admitted is written, and answered when it is on disk. A write of its
own takes the least time; a batch takes the broker some milliseconds, and then hardly more for hundreds
than for one. So nothing waits for company: what comes while few writes are under way goes alone, and
what has piled up behind them goes in one batch.

Invariants (`check`): G1 every ticket is written exactly once; G2 at most ALONE_MAX + BATCHES_MAX writes
are under way; G3 nothing waits while none is under way; G4 no batch exceeds its bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import assert_never

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_runtime.appending import BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BATCH_MESSAGES_MIN

ALONE_MAX = BATCH_MESSAGES_MIN
# A second one beside it would be smaller, and cost as much.
BATCHES_MAX = 1
WAITING_MAX = 50_000


class Submitted(msgspec.Struct, frozen=True):
    """Submissions that came together: (ticket, bytes) each. Tickets are never used twice."""

    tickets: tuple[tuple[int, int], ...]


class Written(msgspec.Struct, frozen=True):
    """A write has ended, well or not."""

    tickets: tuple[int, ...]


class WriteNow(msgspec.Struct, frozen=True):
    """Write these: one alone, several as a batch."""

    tickets: tuple[int, ...]


class Turn(msgspec.Struct, frozen=True):
    """Too much waits already: none of these is taken."""

    tickets: tuple[int, ...]


Event = Submitted | Written
Decision = WriteNow | Turn


class Gathering:
    """The machine. `step` mutates only its own state and returns decisions."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._alone: set[int] = set()
        self._batches: set[tuple[int, ...]] = set()

    def step(self, event: Event) -> Sequence[Decision]:
        """Take in one event."""
        match event:
            case Submitted():
                if len(self._waiting) + len(event.tickets) > WAITING_MAX:
                    return (Turn(tuple(ticket for ticket, _ in event.tickets)),)
                self._waiting.extend(event.tickets)
            case Written():
                self._alone.difference_update(event.tickets)
                self._batches.discard(event.tickets)
            case _:
                assert_never(event)
        return self._writes()

    def _writes(self) -> list[Decision]:
        decisions: list[Decision] = []
        while self._waiting:
            if len(self._waiting) >= BATCH_MESSAGES_MIN and len(self._batches) < BATCHES_MAX:
                batch = self._take()
                self._batches.add(batch)
                decisions.append(WriteNow(batch))
            elif len(self._alone) < ALONE_MAX and not self._batches:
                ticket, _ = self._waiting.popleft()
                self._alone.add(ticket)
                decisions.append(WriteNow((ticket,)))
            else:
                break
        return decisions

    def _take(self) -> tuple[int, ...]:
        batch: list[int] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MESSAGES_MAX:
            ticket, more = self._waiting[0]
            if batch and size + more > BATCH_BYTES_MAX:
                break
            self._waiting.popleft()
            batch.append(ticket)
            size += more
        return tuple(batch)

    def check(self) -> None:
        """Raise InvariantError if an invariant does not hold."""
        busy = len(self._alone) + len(self._batches)
        if busy > ALONE_MAX + BATCHES_MAX:
            raise InvariantError("platform.bug", f"G2: {busy} writes are under way")
        if self._waiting and not busy:
            raise InvariantError("platform.bug", f"G3: {len(self._waiting)} wait for nothing")
        if any(len(batch) > BATCH_MESSAGES_MAX for batch in self._batches):
            raise InvariantError("platform.bug", "G4: a batch is too large")
