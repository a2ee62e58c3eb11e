"""Decide when whose callback is told.

Last step of durable work that names a URL. How far the telling is stands in the record itself
(`InvocationRecord.callback`), written by compare-and-set after each try; so whoever takes over goes on
where the last one was. What is promised is at least once: a try that was answered may be made again
if its note was lost.

Invariants (`check`): C1 nothing is told twice at once; C2 at most AT_ONCE_MAX are being told; C3 no
more than DUE_MAX are remembered, and what was not is looked for again.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from typing import assert_never

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import InvocationId, WorkspaceId

AT_ONCE_MAX = 32
DUE_MAX = 200_000
BETWEEN_MAX_S = 3_600.0
# The share of a pause that differs from task to task, so that what failed together does not come together.
SPREAD = 0.2
WRITE_FAILED_S = 5.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A record's word: whether its callback is due, and from when on (Unix)."""

    invocation_id: InvocationId
    workspace: WorkspaceId
    sequence: int
    due: bool
    due_at: float = 0.0


class Told(msgspec.Struct, frozen=True):
    """A try is over and noted in the record; or could not be noted."""

    invocation_id: InvocationId
    noted: bool


class Ticked(msgspec.Struct, frozen=True):
    """Time has passed."""


class Tell(msgspec.Struct, frozen=True):
    """Tell this one now."""

    invocation_id: InvocationId
    workspace: WorkspaceId


class ScanAgain(msgspec.Struct, frozen=True):
    """More were due than could be remembered, and these are done: read all records again."""


Event = Heard | Told | Ticked
Decision = Tell | ScanAgain


class _Due(msgspec.Struct):
    workspace: WorkspaceId
    sequence: int
    due_at: float


class Callbacks:
    """The machine. `now` is Unix time, since what is due is written in records."""

    def __init__(self) -> None:
        self._due: dict[InvocationId, _Due] = {}
        self._order: list[tuple[float, InvocationId]] = []
        self._telling: dict[InvocationId, _Due] = {}
        self._missed = False

    def step(self, event: Event, now: float) -> Sequence[Decision]:
        """Take in one event."""
        match event:
            case Heard():
                self._on_heard(event)
            case Told():
                was = self._telling.pop(event.invocation_id, None)
                if was is not None and not event.noted and event.invocation_id not in self._due:
                    was.due_at = now + WRITE_FAILED_S
                    self._remember(event.invocation_id, was)
            case Ticked():
                pass
            case _:
                assert_never(event)
        return self._next(now)

    def _on_heard(self, event: Heard) -> None:
        known = self._due.get(event.invocation_id) or self._telling.get(event.invocation_id)
        if known is not None and known.sequence >= event.sequence:
            return
        if event.due:
            due = _Due(event.workspace, event.sequence, event.due_at)
            self._remember(event.invocation_id, due)
        else:
            self._due.pop(event.invocation_id, None)

    def _remember(self, invocation_id: InvocationId, due: _Due) -> None:
        if invocation_id not in self._due and len(self._due) >= DUE_MAX:
            self._missed = True
            return
        self._due[invocation_id] = due
        heapq.heappush(self._order, (due.due_at, invocation_id))

    def _next(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        later: list[tuple[float, InvocationId]] = []
        while self._order and self._order[0][0] <= now and len(self._telling) < AT_ONCE_MAX:
            at, invocation_id = heapq.heappop(self._order)
            due = self._due.get(invocation_id)
            if due is None or due.due_at != at:
                continue  # it has another time by now, or none
            if invocation_id in self._telling:
                later.append((at, invocation_id))
                continue
            self._telling[invocation_id] = self._due.pop(invocation_id)
            decisions.append(Tell(invocation_id, due.workspace))
        for entry in later:
            heapq.heappush(self._order, entry)
        if self._missed and not self._due and not self._telling:
            self._missed = False
            decisions.append(ScanAgain())
        return decisions

    def check(self) -> None:
        """Raise InvariantError if an invariant does not hold."""
        if len(self._telling) > AT_ONCE_MAX:
            raise InvariantError("platform.bug", f"C2: {len(self._telling)} are being told")
        if len(self._due) > DUE_MAX:
            raise InvariantError("platform.bug", f"C3: {len(self._due)} are remembered")
        ordered = set(self._order)
        if any((due.due_at, one) not in ordered for one, due in self._due.items()):
            raise InvariantError("platform.bug", "C3: one that is due has no place in the order")


def next_try_s(
    invocation_id: InvocationId, attempts: int, tries_max: int, first_s: float
) -> float | None:
    """Return the pause after so many tries; None if that was the last."""
    if attempts >= tries_max:
        return None
    pause_s = min(BETWEEN_MAX_S, first_s * 2 ** min(attempts - 1, 30))
    digest = hashlib.blake2b(f"{invocation_id}/{attempts}".encode(), digest_size=4).digest()
    return float(pause_s * (1 - SPREAD * int.from_bytes(digest) / 2**32))
