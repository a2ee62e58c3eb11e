"""How far a shard's records are audited. Pure; what is done about it stands in `dispatch_audit.py`."""

from __future__ import annotations

from collections import deque

from glowplug_contracts.ids import InvocationId, WorkspaceId

AUDIT_SOON_S = 5.0
AUDIT_EVERY_S = 60.0
# After one that took long the rest is so many times as long: a large backlog is not read all the time.
AUDIT_SHARE = 20.0
AUDIT_REST_MAX_S = 600.0
# And now and then from the first record on: two readers may have left out the same.
DEEP_EVERY_S = 3600.0
# What an audit has seen beyond our reader must have come to it by then, or it is made anew.
STUCK_S = 5.0
# Rather than one by one, so many doubts are settled by reading everything again.
DOUBTS_MAX = 1024
# Live records that may stand below the floor: what is due in a week does not hold it down.
BELOW_MAX = 256
# What ended a moment ago may still be on its way to the audit as it was before.
ENDED_LATELY_S = 60.0


class Audit:
    """How far the records are audited.

    Attributes:
        floor: below this sequence everything has ended, but for what the next owner is told of.
        due_at: when the next one begins.
        deep_at: when the next one is read from the first record on, not from the floor.
        running: one is being read; `started_at`, and `high`: how far our own reader was then.
        seen: how far the audit has read.
        doubts: what it knows better than we do.
        overdue: our reader must have come to this sequence by `overdue_at`.
        mended: records that had been left out, since this machine began.
    """

    def __init__(self) -> None:
        self.floor = 1
        self.due_at = float("inf")
        self.deep_at = float("inf")
        self.running = False
        self.started_at = 0.0
        self.high = 0
        self.seen = 0
        self.doubts: dict[InvocationId, tuple[WorkspaceId, int]] = {}
        self.overdue = 0
        self.overdue_at = float("inf")
        self.mended = 0
        self.rated: deque[tuple[int, float]] = deque()

    def began(self, start: int, now: float) -> None:
        """Everything from `start` on has been read once."""
        self.floor = start
        self.deep_at = min(self.deep_at, now + AUDIT_EVERY_S)
        self.soon(now)

    def soon(self, now: float) -> None:
        """Something happened in which a reader could have lost its place."""
        self.due_at = min(self.due_at, now + AUDIT_SOON_S)

    def needs_tick(self, now: float) -> bool:
        """Return whether time brings anything here."""
        return self.due_at <= now or self.overdue_at <= now
