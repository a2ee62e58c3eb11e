"""Schedules: each due time fires once, whoever dies when. A pure machine under the shard's lease.

The stored state (`ScheduleState`, changed by compare-and-set) is the truth, the broker's timers are only
wake-up calls. For each schedule the machine looks at what is stored and decides one next step; when the
shell says that it is done, it looks again. So a new owner goes on exactly where the old one stopped:

    claim    store: decided up to here, these due times fire          (compare-and-set on the state)
    fire     make each claimed due time's invocation                  (its id derives from name and time)
    settle   store: the claim is empty, here is its history           (compare-and-set)
    timer    have the broker call at `next_due`, the successor        (one `@at` per schedule)

What a kill between any two steps leaves behind:

* Before the claim is stored: nothing was decided. The new owner hears the timer's message again (the last
  one of each schedule is kept), or sees that `next_due` is past, and claims.
* After the claim, before or amid firing: the claim names what must fire. The new owner makes every
  invocation of it; those that are there already are a conflict on the first word of their record, and left
  alone. An owner that was taken for dead and wakes up makes the same ids, and loses the settling.
* After firing, before settling: the same. Only a claim older than CLAIM_SURE_S might name an invocation
  that ended and is kept no longer; if no record stands, nobody can know whether it ran, and the due time is
  shown as skipped ("unsure"): at most once, and told. Records of firings are kept KEPT_S_MIN at least.
* After settling, before the timer: a new owner sets every schedule's timer when it takes over, and a due
  time that no timer announces is noticed OVERDUE_S late.
* A timer that goes off twice, or late (a broker killed with the removal unsynced), names a time that is
  decided, and is ignored. One that an older owner set for an older time replaces ours: noticed likewise.

`decided_until` only grows, so a clock set back fires nothing twice: the next due time is counted from the
last decided one, never from the clock, and is waited for. A clock set forward is an outage of that length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import msgspec
from glowplug_contracts.ids import DeploymentId, InvocationId, derived
from glowplug_contracts.messages.schedule import (
    CATCH_UP_MAX,
    HISTORY_MAX,
    LATE_S,
    CatchUp,
    ScheduleEntry,
    ScheduleState,
)

from glowplug_scheduler.schedule_types import (
    Decision,
    Event,
    Failed,
    Fire,
    Fired,
    ForgetState,
    Forgotten,
    Key,
    Loaded,
    NotThere,
    ReadState,
    SetTimer,
    StateRead,
    StateSeen,
    Tick,
    TimerStands,
    VersionGone,
    VersionSeen,
    WentOff,
    WriteState,
    Written,
)

# Due times looked at in one claim; after a long outage there are several claims.
LOOK_MAX = 250
# The broker calls within a quarter of a second; without a call the machine goes on by itself.
OVERDUE_S = 1.0
# A claim older than this proves nothing about a record that is not there.
CLAIM_SURE_S = 3_600.0
KEPT_S_MIN = 2 * CLAIM_SURE_S
# A name without a version may get one again: deleting the latest version moves the name to an older one.
FORGET_S = 60.0
RETRY_S = 0.25

After = Callable[[str, str, float], float]


class Schedule:
    """What is known of one schedule.

    Attributes:
        versions: those that the name leads to.
        state, revision: as stored, to our knowledge.
        busy: a decision is being performed; its answer is awaited.
        doubted: what is stored must be read again.
        retry_at: nothing is tried before.
        ours: the claim was stored by us, so what is missing of it was never made.
        made: due times of the claim whose invocations stand.
        unsure: due times of an old claim that no record stands for.
        timer: the due time that our timer stands for; 0 = none.
        called: the due time that the broker called last.
        unserved_since: since when no version is known; 0 = one is.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.versions: dict[DeploymentId, VersionSeen] = {}
        self.state: ScheduleState | None = None
        self.revision = 0
        self.writing: ScheduleState | None = None
        self.busy = False
        self.doubted = False
        self.retry_at = 0.0
        self.ours = False
        self.made: set[float] = set()
        self.unsure: set[float] = set()
        self.timer = 0.0
        self.called = 0.0
        self.unserved_since = 0.0

    def newest(self) -> VersionSeen | None:
        """Return the version that fires."""
        return max(self.versions.values(), key=lambda one: one.version, default=None)


class Schedules:
    """One shard's schedules. A new generation of its owner is a new Schedules."""

    def __init__(self, after: After, *, late_s: float = LATE_S) -> None:
        self._after = after
        self._late_s = late_s
        self._loaded = False
        self.schedules: dict[Key, Schedule] = {}

    def step(self, event: Event, now: float) -> list[Decision]:
        """Take in an event at Unix time `now`; return what is to be done, at most one thing per schedule."""
        match event:
            case Tick():
                pass
            case Loaded():
                self._loaded = True
            case _:
                self._hear(event, now)
                return list(self._looked_at(event.key, now))
        decided = (self._looked_at(key, now) for key in list(self.schedules))
        return list(itertools.chain.from_iterable(decided))

    # -- hearing --------------------------------------------------------------------------------

    def _hear(self, event: Event, now: float) -> None:
        assert not isinstance(event, Tick | Loaded)  # noqa: S101
        one = self.schedules.get(event.key)
        if one is None:
            one = self.schedules[event.key] = Schedule(event.key)
        match event:
            case VersionSeen():
                one.versions[event.deployment_id] = event
                one.unserved_since = 0.0
            case VersionGone(_, deployment_id):
                one.versions.pop(deployment_id, None)
            case StateSeen(_, state, revision):
                if revision > one.revision and not one.doubted:
                    _learn(one, state, revision)
            case StateRead(_, state, revision):
                one.busy = one.doubted = False
                _learn(one, state, revision)
            case WentOff(_, due):
                one.called = due
            case _:
                self._hear_answer(one, event, now)

    def _hear_answer(self, one: Schedule, event: Event, now: float) -> None:
        one.busy = False
        match event:
            case Written(_, revision):
                if revision >= one.revision and one.writing is not None:
                    _learn(one, one.writing, revision)
                    one.ours = True
                one.writing = None
            case Fired(_, due) if _is_claimed(one, due):
                one.made.add(due)
            case NotThere(_, due) if _is_claimed(one, due):
                one.unsure.add(due)
            case TimerStands(_, due):
                one.timer = due
            case Forgotten():
                _learn(one, None, one.revision)
            case Failed(_, conflict):
                one.doubted = True
                one.retry_at = now if conflict else now + RETRY_S

    # -- deciding -------------------------------------------------------------------------------

    def _looked_at(self, key: Key, now: float) -> Iterator[Decision]:
        """Yield the schedule's next step, if it has one now."""
        one = self.schedules.get(key)
        if one is None or one.busy or not self._loaded or now < one.retry_at <= now + RETRY_S:
            return
        decision = self._next(one, now)
        if decision is None:
            if one.state is None and not one.versions:
                del self.schedules[key]
            return
        one.busy = True
        if isinstance(decision, WriteState):
            one.writing = decision.state
        yield decision

    def _next(self, one: Schedule, now: float) -> Decision | None:
        state, version = one.state, one.newest()
        if one.doubted:
            return ReadState(one.key)
        if version is None:
            return self._unserved(one, now)
        if state is None:
            return WriteState(one.key, self._fresh(one.key, version, now), 0)
        if state.claimed:
            return self._fire_or_settle(one, state, version, now)
        return self._go_on(one, state, version, now)

    def _go_on(
        self, one: Schedule, state: ScheduleState, version: VersionSeen, now: float
    ) -> Decision | None:
        """Return the next step where nothing is claimed."""
        if (state.when, state.timezone) != (version.spec.when, version.spec.timezone):
            return WriteState(one.key, self._rewritten(state, version, now), one.revision)
        if state.paused or not state.next_due:
            return None
        if one.called == state.next_due or now >= state.next_due + OVERDUE_S:
            return WriteState(one.key, self._claim(state, version, one.called, now), one.revision)
        if one.timer != state.next_due:
            return SetTimer(one.key, state.next_due)
        return None

    def _unserved(self, one: Schedule, now: float) -> Decision | None:
        if one.state is None:
            return None
        one.unserved_since = one.unserved_since or now
        if now - one.unserved_since < FORGET_S:
            return None
        return ForgetState(one.key, one.revision)

    def _fresh(self, key: Key, version: VersionSeen, now: float) -> ScheduleState:
        spec = version.spec
        return ScheduleState(
            name=key.name,
            workspace=key.workspace,
            when=spec.when,
            timezone=spec.timezone,
            decided_until=now,
            next_due=self._after(spec.when, spec.timezone, now),
            created_at=now,
        )

    def _rewritten(self, state: ScheduleState, version: VersionSeen, now: float) -> ScheduleState:
        """Another deploy says another time: it counts from now, unless the clock was set back."""
        spec, decided = version.spec, max(state.decided_until, now)
        return msgspec.structs.replace(
            state,
            when=spec.when,
            timezone=spec.timezone,
            decided_until=decided,
            next_due=self._after(spec.when, spec.timezone, decided),
        )

    def _claim(
        self, state: ScheduleState, version: VersionSeen, called: float, now: float
    ) -> ScheduleState:
        """Return the state in which everything due is decided, a bounded number of due times at once."""
        until = max(now, called if called == state.next_due else 0.0)
        due = [state.next_due]
        while len(due) < LOOK_MAX:
            following = self._after(state.when, state.timezone, due[-1])
            if not 0.0 < following <= until:
                break
            due.append(following)
        if len(due) == LOOK_MAX:
            # There are more: the latest of these may yet be among the last CATCH_UP_MAX of all.
            due, fire = due[:-CATCH_UP_MAX], []
        else:
            fire = chosen(due, version.spec.catch_up, now - self._late_s)
        skipped = due[: len(due) - len(fire)]
        return msgspec.structs.replace(
            state,
            claimed=tuple(fire),
            claimed_at=now,
            decided_until=due[-1],
            next_due=self._after(state.when, state.timezone, due[-1]),
            skipped=state.skipped + len(skipped),
            history=with_entries(state, _skipped(skipped, now, "late")),
        )

    def _fire_or_settle(
        self, one: Schedule, state: ScheduleState, version: VersionSeen, now: float
    ) -> Decision:
        unknown = [due for due in state.claimed if due not in one.made | one.unsure]
        if unknown:
            old = not one.ours and now - state.claimed_at > CLAIM_SURE_S
            invocation_id = firing_id(one.key, unknown[0])
            return Fire(one.key, unknown[0], invocation_id, version.deployment_id, only_look=old)
        fired = tuple(
            ScheduleEntry(outcome="fired", due=due, at=now, invocation_id=firing_id(one.key, due))
            for due in sorted(one.made, reverse=True)
        )
        unsure = _skipped(sorted(one.unsure), now, "unsure")
        settled = msgspec.structs.replace(
            state,
            claimed=(),
            fired=state.fired + len(fired),
            skipped=state.skipped + len(one.unsure),
            history=with_entries(state, fired + unsure),
        )
        return WriteState(one.key, settled, one.revision)

    def check(self) -> None:
        """Assert what must hold at every moment."""
        for one in self.schedules.values():
            state = one.state
            if state is None:
                continue
            assert all(due <= state.decided_until for due in state.claimed)  # noqa: S101
            assert len(state.claimed) <= CATCH_UP_MAX  # noqa: S101
            assert not state.next_due or state.next_due > state.decided_until  # noqa: S101
            assert len(state.history) <= HISTORY_MAX  # noqa: S101
            assert one.made | one.unsure <= set(state.claimed)  # noqa: S101


def chosen(due: list[float], catch_up: CatchUp, in_time_from: float) -> list[float]:
    """Return which of these due times fire: a tail of them, at most CATCH_UP_MAX."""
    if catch_up is CatchUp.ALL:
        return due[-CATCH_UP_MAX:]
    in_time = [one for one in due if one >= in_time_from]
    if catch_up is CatchUp.ONE and not in_time:
        return due[-1:]
    return in_time[-CATCH_UP_MAX:]


def firing_id(key: Key, due: float) -> InvocationId:
    """Return the id of a due time's invocation, whichever version or owner makes it."""
    return derived(key.workspace, "schedule", f"{key.name}/{due:.0f}")


def with_entries(
    state: ScheduleState, entries: tuple[ScheduleEntry, ...]
) -> tuple[ScheduleEntry, ...]:
    """Return the history with newer entries in front."""
    return (*entries, *state.history)[:HISTORY_MAX]


def _skipped(due: list[float], now: float, reason: str) -> tuple[ScheduleEntry, ...]:
    if not due:
        return ()
    last = due[-1] if len(due) > 1 else 0.0
    return (
        ScheduleEntry(
            outcome="skipped", due=due[0], last=last, count=len(due), at=now, reason=reason
        ),
    )


def _is_claimed(one: Schedule, due: float) -> bool:
    """Return whether a due time still belongs to the claim; another owner may have settled it."""
    return one.state is not None and due in one.state.claimed


def _learn(one: Schedule, state: ScheduleState | None, revision: int) -> None:
    """Take in what is stored. What was made of a claim counts only for that claim."""
    before = one.state
    one.state, one.revision = state, revision
    if state is None or before is None or state.claimed != before.claimed:
        one.made, one.unsure, one.ours = set(), set(), False
