"""Schedules: when a function is due, how far its schedule is decided, and the timer that wakes it.

A schedule belongs to a name, not to a version: a new deploy goes on where the old one was. Due times are
Unix seconds, whole; they are what a firing's id derives from, so here a time *is* an identity, whoever's
clock made it.
"""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages import Message


class CatchUp(StrEnum):
    """What happens to due times that nobody could fire in time (platform or broker down).

    SKIP: none of them fires. ONE: the latest fires, unless one in time stands for it. ALL: each fires,
    the latest `CATCH_UP_MAX` at most. What does not fire is counted and shown as skipped.
    """

    SKIP = "skip"
    ONE = "one"
    ALL = "all"


CATCH_UP_MAX = 100
# A due time that comes late by no more than this fires under every policy: a leader's death is no outage.
LATE_S = 15.0

# What the function of a schedule gets: the pickle of no arguments, `((), {})`. Not JSON, because a result
# is written in the format of its arguments, and what such a function returns need not be JSON.
NO_ARGUMENTS = b"\x80\x05)}\x94\x86\x94."


class ScheduleSpec(Message, frozen=True, kw_only=True):
    """When a deployment's function is due.

    `when` is five or six fields of cron, "@hourly" and its like, or "every 30s" (counted from the epoch).
    `timezone` is an IANA name; it matters to cron only.
    """

    when: str
    timezone: str = "UTC"
    catch_up: CatchUp = CatchUp.SKIP


class ScheduleEntry(Message, frozen=True, kw_only=True):
    """One line of a schedule's history.

    Attributes:
        outcome: "fired" or "skipped".
        due: the due time; of several, the first.
        last: of several skipped ones, the last; 0 where there is one.
        count: due times that this line stands for.
        at: when it was decided.
        reason: why it was skipped: "late", "paused" or "unsure" (nobody can know whether it ran).
    """

    outcome: str
    due: float
    at: float
    last: float = 0.0
    count: int = 1
    invocation_id: InvocationId = InvocationId("")
    reason: str = ""


HISTORY_MAX = 20


class ScheduleState(Message, frozen=True, kw_only=True):
    """How far a schedule is decided, as stored in the `schedules` bucket; changed by compare-and-set only.

    Attributes:
        when, timezone: what `next_due` was counted by; another deploy may say something else.
        decided_until: every due time up to here is decided: it fired, or it never will. Only grows.
        next_due: the first one after it; 0 = there is none.
        claimed: due times decided to fire whose invocations may not be made yet.
        claimed_at: when.
        paused: nothing is decided meanwhile; resuming passes over the time between.
        fired, skipped: how many ever.
        history: the latest lines, newest first, at most HISTORY_MAX.
    """

    name: str
    workspace: WorkspaceId
    when: str
    timezone: str = "UTC"
    decided_until: float = 0.0
    next_due: float = 0.0
    claimed: tuple[float, ...] = ()
    claimed_at: float = 0.0
    paused: bool = False
    paused_at: float = 0.0
    fired: int = 0
    skipped: int = 0
    history: tuple[ScheduleEntry, ...] = ()
    created_at: float = 0.0


class ScheduleDue(Message, frozen=True, kw_only=True):
    """A timer has gone off. A hint: it may come again, late, or for a time that is decided already."""

    name: str
    workspace: WorkspaceId
    due: float


class TimerSet(ScheduleDue, frozen=True, kw_only=True):
    """A timer that waits in its stream until `due`; then the broker moves it, byte for byte."""
