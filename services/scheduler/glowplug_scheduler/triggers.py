"""The event router: which triggers want an event, and what is made of it, batch by batch. Pure.

The third machine of the scheduler service, under a shard's lease (journey step 2 for events). Its shell
feeds it the shard's events in the order of the stream and performs its decisions. Whatever it decides
may be decided again by the next owner, from the position that was stored last, and has no second effect:

* An event for a trigger that takes them one by one becomes an invocation whose id follows from trigger and
  event.
* A batch is cut by what has come until a moment, which no other owner would hit again. So the cut is
  stored first (`WriteCursor`, by compare-and-set), and the batch's id follows from it; a new owner that
  finds a cut makes the same batch of the same events again.

Invariants: R1 the position never passes an event that is wanted and not in an invocation that exists, and
never falls; R2 the batches of a trigger are cut one after the other and do not overlap; R3 a batch has at
most as many events as its trigger takes, and at most BATCH_BYTES_MAX bytes; R4 what waits is bounded:
while `full`, the shell feeds nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec
from glowplug_contracts.cloudevents import write_structured
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.eventmatch import Match, compile_trigger
from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.event import RouterPosition, StoredEvent, TriggerCursor
from glowplug_contracts.triggered import BATCH_BYTES_MAX, batch_id, one_event_id

# Invocations that may be on their way to the stream at once.
MAKING_MAX = 256
# Full batches of one trigger that wait for their cut to be stored.
SEALED_MAX = 2

Key = tuple[WorkspaceId, str]
_NO_KEY: Key = (WorkspaceId(""), "")


# -- events ---------------------------------------------------------------------------------------


class TriggerLive(msgspec.Struct, frozen=True):
    """The live version of a name has a trigger; `after`: earlier events are none of its business.

    `cursor` is what is stored of its batches; not needed where events go one by one.
    """

    deployment: Deployment
    after: int
    cursor: TriggerCursor = TriggerCursor()


class TriggerGone(msgspec.Struct, frozen=True):
    """A name leads to no trigger any more. `finish`: what was read for it is still delivered."""

    workspace: WorkspaceId
    name: str
    finish: bool = False


class EventRead(msgspec.Struct, frozen=True):
    """The next event of the stream. `more`: another one is there already."""

    stored: StoredEvent
    sequence: int
    more: bool = False


class Made(msgspec.Struct, frozen=True):
    """An invocation exists, now or for long."""

    invocation_id: InvocationId


class CursorWritten(msgspec.Struct, frozen=True):
    """A cut is stored."""

    workspace: WorkspaceId
    name: str
    cursor: TriggerCursor


class Tick(msgspec.Struct, frozen=True):
    """Time passed."""


Event = TriggerLive | TriggerGone | EventRead | Made | CursorWritten | Tick


# -- decisions ------------------------------------------------------------------------------------


class Make(msgspec.Struct, frozen=True):
    """Create an invocation, unless it exists."""

    invocation_id: InvocationId
    deployment: Deployment
    events: tuple[StoredEvent, ...]


class WriteCursor(msgspec.Struct, frozen=True):
    """Store a cut."""

    workspace: WorkspaceId
    name: str
    cursor: TriggerCursor


class ReportBadTrigger(msgspec.Struct, frozen=True):
    """A trigger that no gateway should have accepted; it gets nothing."""

    deployment: Deployment
    why: str


Decision = Make | WriteCursor | ReportBadTrigger


# -- state ----------------------------------------------------------------------------------------


class _Waiting(msgspec.Struct, frozen=True):
    stored: StoredEvent
    sequence: int
    size: int


class _Batch(msgspec.Struct):
    """Events of a trigger that will be one invocation of this version."""

    deployment: Deployment
    opened_at: float
    events: list[_Waiting] = []
    size: int = 0

    def fits(self, size: int, limit: int) -> bool:
        """Return whether one more event of this size may go in (the first always does)."""
        room = not self.events or self.size + size <= BATCH_BYTES_MAX
        return room and len(self.events) < limit

    def add(self, waiting: _Waiting) -> None:
        """Put an event in."""
        self.events.append(waiting)
        self.size += waiting.size + 1

    def stored(self) -> tuple[StoredEvent, ...]:
        """Return the events."""
        return tuple(each.stored for each in self.events)


class _Trigger(msgspec.Struct):
    """A trigger's live version, and its batches: made again, cut now, to be cut, still open."""

    deployment: Deployment
    batch: int
    window_s: float
    match: Match
    after: int
    cursor: TriggerCursor
    ending: bool = False
    making: InvocationId = InvocationId("")  # the last batch that was cut, until it exists
    again: _Batch | None = None
    cutting: _Batch | None = None
    sealed: deque[_Batch] = msgspec.field(default_factory=deque)
    open: _Batch | None = None

    def waiting(self) -> Iterator[_Waiting]:
        """Return the events that wait."""
        for each in (self.again, self.cutting, *self.sealed, self.open):
            if each is not None:
                yield from each.events


class Router:
    """See the module. `position` is what the last owner stored; reading begins at `first`."""

    def __init__(self, position: RouterPosition) -> None:
        self.first = position.oldest or position.sequence + 1
        self.read = self.first - 1
        self._begun = position
        self._triggers: dict[WorkspaceId, dict[str, _Trigger]] = {}
        self._making: dict[InvocationId, int] = {}
        self._making_singly: dict[InvocationId, int] = {}
        self._batch_of: dict[InvocationId, Key] = {}
        self._more = True

    # -- what the shell asks --------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Return whether enough waits; the shell feeds no events until that has changed."""
        if len(self._making) >= MAKING_MAX:
            return True
        return any(len(each.sealed) >= SEALED_MAX for each in self._all())

    @property
    def idle(self) -> bool:
        """Return whether nothing is on its way or waits to be cut (open batches may be)."""
        return not self._making and not any(each.cutting or each.sealed for each in self._all())

    @property
    def reached(self) -> int:
        """Return up to where events are none of a new trigger's business: read, here or before."""
        return max(self.read, self._begun.sequence)

    def position(self) -> RouterPosition:
        """Return what the next owner must know."""
        singly = min((*self._making_singly.values(), self.read + 1)) - 1
        waiting = (one.sequence for each in self._all() for one in each.waiting())
        oldest = min((*self._making.values(), *waiting, self.read + 1))
        return RouterPosition(sequence=max(singly, self._begun.sequence), oldest=oldest)

    def live(self, workspace: WorkspaceId, name: str) -> Deployment | None:
        """Return the version whose trigger a name leads to."""
        found = self._triggers.get(workspace, {}).get(name)
        return None if found is None or found.ending else found.deployment

    def names(self) -> set[Key]:
        """Return the names that have a trigger."""
        return {(ws, n) for ws, named in self._triggers.items() for n in named if self.live(ws, n)}

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        position = self.position()
        for each in self._all():
            found = list(each.waiting())
            assert all(one.sequence >= position.oldest for one in found), "R1"  # noqa: S101
            assert len(each.sealed) <= SEALED_MAX + 1, "R4"  # noqa: S101
            ahead = [one.sequence for one in found if one.sequence > each.cursor.until]
            assert ahead == sorted(set(ahead)), "R2"  # noqa: S101
            for batch in (each.cutting, *each.sealed, each.open):
                if batch is not None and len(batch.events) > 1:
                    assert batch.size <= BATCH_BYTES_MAX + len(batch.events), "R3"  # noqa: S101
        assert len(self._making) <= MAKING_MAX + sum(map(len, self._triggers.values())), "R4"  # noqa: S101

    # -- the step -------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> Sequence[Decision]:
        """Take an event, return what is to be done. `now`: monotonic seconds."""
        match event:
            case EventRead():
                return self._read(event, now)
            case Made(invocation_id):
                return self._have_made(invocation_id)
            case CursorWritten():
                return self._have_cut(event)
            case Tick():
                self._forget_ended()
                return [one for each in self._all() for one in self._seal_due(each, now)]
            case TriggerLive():
                return self._set(event)
            case TriggerGone():
                return self._end(event)

    def _set(self, live: TriggerLive) -> Sequence[Decision]:
        deployment = live.deployment
        spec, name = deployment.spec.trigger, deployment.spec.name
        named = self._triggers.setdefault(deployment.workspace, {})
        known = named.get(name)
        if known is not None and known.deployment.deployment_id == deployment.deployment_id:
            return ()
        if spec is None:
            named.pop(name, None)
            return ()
        try:
            match = compile_trigger(spec)
        except InvalidRequestError as error:
            named.pop(name, None)
            return (ReportBadTrigger(deployment, str(error)),)
        found = _Trigger(deployment, spec.batch, spec.window_s, match, live.after, live.cursor)
        named[name] = found
        if known is None:
            return ()
        if known.ending:
            # It has taken its leave at a stored cut; what may still be waiting there goes out.
            found.again, found.cutting, found.sealed = known.again, known.cutting, known.sealed
            found.making = known.making
            return self._cut_next(found)
        # What the old version was to get it gets: the cut is where the new one begins.
        # Not from here on: a new owner may not have read again yet what the last one had read and not delivered.
        found.after = known.after
        if known.batch:
            found.cursor = known.cursor
            if not found.batch:
                found.after = max(known.after, known.cursor.until)
        found.again, found.cutting = known.again, known.cutting
        found.sealed, found.making = known.sealed, known.making
        if known.open is not None:
            found.sealed.append(known.open)
        return self._cut_next(found)

    def _end(self, gone: TriggerGone) -> Sequence[Decision]:
        named = self._triggers.get(gone.workspace, {})
        found = named.get(gone.name)
        if found is None:
            return ()
        if not gone.finish:
            del named[gone.name]
            return ()
        found.ending = True
        if found.open is not None:
            found.sealed.append(found.open)
            found.open = None
        return self._cut_next(found)

    def _forget_ended(self) -> None:
        for named in self._triggers.values():
            for name in [n for n, each in named.items() if each.ending]:
                if next(named[name].waiting(), None) is None:
                    del named[name]

    def _read(self, event: EventRead, now: float) -> Sequence[Decision]:
        sequence = event.sequence
        if sequence <= self.read:
            return ()  # repeated after a reconnect
        self.read, self._more = sequence, event.more
        decisions: list[Decision] = []
        for each in tuple(self._triggers.get(event.stored.workspace, {}).values()):
            wanted = sequence > each.after and (not each.ending or sequence <= each.cursor.until)
            if wanted and each.match(event.stored.event):
                decisions += self._take(each, event.stored, sequence, now)
            decisions += self._make_again(each, sequence)
        if not event.more:
            decisions += [one for each in self._all() for one in self._seal_due(each, now)]
        return decisions

    def _take(
        self, trigger: _Trigger, stored: StoredEvent, sequence: int, now: float
    ) -> Sequence[Decision]:
        if not trigger.batch:
            return (self._make_one(trigger, stored, sequence),)
        if sequence <= trigger.cursor.since:
            return ()
        waiting = _Waiting(stored, sequence, len(write_structured(stored.event)))
        if sequence <= trigger.cursor.until:
            if trigger.again is None:
                trigger.again = _Batch(trigger.deployment, now)
            if not trigger.again.fits(waiting.size, trigger.batch):
                # Only a changed trigger can want more now than was cut then.
                return (self._make_one(trigger, stored, sequence),)
            trigger.again.add(waiting)
            return ()
        if trigger.open is not None and not trigger.open.fits(waiting.size, trigger.batch):
            trigger.sealed.append(trigger.open)
            trigger.open = None
        if trigger.open is None:
            trigger.open = _Batch(trigger.deployment, now)
        trigger.open.add(waiting)
        if len(trigger.open.events) >= trigger.batch:
            trigger.sealed.append(trigger.open)
            trigger.open = None
        return self._cut_next(trigger)

    def _make_one(self, trigger: _Trigger, stored: StoredEvent, sequence: int) -> Make:
        deployment = trigger.deployment
        made = one_event_id(deployment.workspace, deployment.spec.name, stored.event_id)
        self._making[made] = self._making_singly[made] = sequence
        return Make(made, deployment, (stored,))

    def _make_again(self, trigger: _Trigger, sequence: int) -> Sequence[Decision]:
        """Make the batch that the last owner had cut, once all of it is read."""
        again = trigger.again
        if again is None or sequence < trigger.cursor.until:
            return ()
        trigger.again = None
        return (self._make_batch(trigger, again),)

    def _make_batch(self, trigger: _Trigger, batch: _Batch) -> Make:
        spec, cursor = batch.deployment.spec, trigger.cursor
        workspace = batch.deployment.workspace
        made = batch_id(workspace, spec.name, cursor.since, cursor.until)
        self._making[made] = batch.events[0].sequence
        trigger.making, self._batch_of[made] = made, (workspace, spec.name)
        return Make(made, batch.deployment, batch.stored())

    def _have_made(self, invocation_id: InvocationId) -> Sequence[Decision]:
        self._making.pop(invocation_id, None)
        self._making_singly.pop(invocation_id, None)
        workspace, name = self._batch_of.pop(invocation_id, _NO_KEY)
        trigger = self._triggers.get(workspace, {}).get(name)
        if trigger is None or trigger.making != invocation_id:
            return ()
        trigger.making = InvocationId("")
        return self._cut_next(trigger)

    # -- batches --------------------------------------------------------------------------------

    def _seal_due(self, trigger: _Trigger, now: float) -> Sequence[Decision]:
        """End what has waited long enough. Without a window, that is until nothing more is there."""
        decisions: list[Decision] = []
        if not self._more:
            decisions += self._make_again(trigger, max(self.read, trigger.cursor.until))
        batch = trigger.open
        if batch is None:
            return decisions
        waited = now - batch.opened_at >= trigger.window_s
        if (waited and trigger.window_s) or (not trigger.window_s and not self._more):
            trigger.sealed.append(batch)
            trigger.open = None
        return [*decisions, *self._cut_next(trigger)]

    def _cut_next(self, trigger: _Trigger) -> Sequence[Decision]:
        # One cut at a time: R2. And not before the batch of the last one exists: only the last cut is stored, so a
        # new owner would not know of an earlier one that is still to be made.
        if trigger.cutting is not None or trigger.again is not None or trigger.making:
            return ()
        if not trigger.sealed:
            return ()
        batch = trigger.cutting = trigger.sealed.popleft()
        deployment = batch.deployment
        cursor = TriggerCursor(
            since=trigger.cursor.until,
            until=batch.events[-1].sequence,
            deployment_id=deployment.deployment_id,
        )
        return (WriteCursor(deployment.workspace, deployment.spec.name, cursor),)

    def _have_cut(self, event: CursorWritten) -> Sequence[Decision]:
        trigger = self._triggers.get(event.workspace, {}).get(event.name)
        if trigger is None or trigger.cutting is None:
            return ()  # deleted meanwhile
        batch, trigger.cutting, trigger.cursor = trigger.cutting, None, event.cursor
        return [self._make_batch(trigger, batch)]

    def _all(self) -> Iterator[_Trigger]:
        for named in self._triggers.values():
            yield from named.values()
