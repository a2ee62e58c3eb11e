"""The dispatcher of one shard: hands invocations to free slots, best first.

Journey step 3. A pure machine: `step(event, now)` changes the state and returns what to do; the shell
in `service.py` does it. It never reads a clock, never waits, and remembers nothing that it could not
learn again from the streams and the workers' beats. It holds no payload of durable work, and of
interactive work only what its bounded cache takes.

Behaviour at the bounds: more calls than twice the backlog's maximum are sent back as refused (their
stream refuses earlier); more records than the maximum stay unread in their stream until there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from glowplug_contracts.messages.dispatch import CallsKnown
from glowplug_contracts.messages.invocation import InvocationRequested
from glowplug_contracts.streams import SHARD_BACKLOG_MAX

from glowplug_scheduler.dispatch_audit import end_audit, see_audited, see_verified
from glowplug_scheduler.dispatch_checks import check
from glowplug_scheduler.dispatch_containers import (
    hear_beat,
    hear_began,
    hear_container,
    lose_worker,
    reopen_worker,
)
from glowplug_scheduler.dispatch_deployments import move_deployment
from glowplug_scheduler.dispatch_records import read_all, remove_record, see_record
from glowplug_scheduler.dispatch_state import CACHE_BYTES_MAX, SETTLED_AFTER_S, ShardState
from glowplug_scheduler.dispatch_time import pass_time
from glowplug_scheduler.dispatch_types import (
    Ack,
    AnnounceBacklog,
    AnswerProbe,
    AuditEnded,
    AuditRecords,
    Began,
    CancelAsked,
    Decision,
    DeploymentMoved,
    Ended,
    Event,
    ForwardCancel,
    Hand,
    KeepFloor,
    PayloadGone,
    Probed,
    RecordAudited,
    RecordRemoved,
    RecordSeen,
    RecordsRead,
    RecordVerified,
    Refused,
    RequestArrived,
    ScanRecords,
    SendLost,
    ShardTaken,
    VerifyRecord,
    WriteRecord,
)
from glowplug_scheduler.events import (
    AskWorker,
    BeatHeard,
    BrokerReached,
    ContainerMoved,
    Tick,
    WorkerAnswered,
    WorkerUnreachable,
)
from glowplug_scheduler.queues import Item, Place

__all__ = [
    "SETTLED_AFTER_S",
    "Ack",
    "AnnounceBacklog",
    "AnswerProbe",
    "AskWorker",
    "AuditEnded",
    "AuditRecords",
    "BeatHeard",
    "Began",
    "BrokerReached",
    "CancelAsked",
    "ContainerMoved",
    "Decision",
    "DeploymentMoved",
    "Dispatcher",
    "Ended",
    "Event",
    "ForwardCancel",
    "Hand",
    "KeepFloor",
    "PayloadGone",
    "Probed",
    "RecordAudited",
    "RecordRemoved",
    "RecordSeen",
    "RecordVerified",
    "RecordsRead",
    "Refused",
    "RequestArrived",
    "ScanRecords",
    "SendLost",
    "ShardTaken",
    "Tick",
    "VerifyRecord",
    "WorkerAnswered",
    "WorkerUnreachable",
    "WriteRecord",
]

CANCEL_KEPT_S = 5.0
REDELIVERED_S = 5.0
RECORD_PAUSE_S = 0.1
UNCLAIMED_S = 1.0

# Refusals that say nothing about the container: the record had moved on.
RECORD_REASONS = frozenset({"claimed", "conflict", "record", "stale_record", "cancelled"})


class Dispatcher:
    """One shard's machine. A new generation of its owner is a new Dispatcher."""

    def __init__(
        self,
        shard: int,
        shards: int,
        *,
        backlog_max: int = SHARD_BACKLOG_MAX,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.state = ShardState(
            shard, shards, backlog_max=backlog_max, cache_bytes_max=cache_bytes_max
        )
        state = self.state
        # Any: each handler takes its own event type; `step` looks it up by that type.
        self._handlers: dict[type, Callable[[Any, float, list[Decision]], None]] = {
            RequestArrived: self._arrive,
            Began: lambda event, now, out: hear_began(state, event, now, out),
            Ended: self._end,
            RecordSeen: lambda event, now, out: see_record(state, event, now, out),
            RecordsRead: lambda event, now, out: read_all(state, event.start, now, out),
            RecordAudited: lambda event, now, out: see_audited(state, event, now, out),
            AuditEnded: lambda event, now, out: end_audit(state, event, now, out),
            RecordVerified: lambda event, now, out: see_verified(state, event, now, out),
            RecordRemoved: lambda event, now, out: remove_record(state, event, now, out),
            DeploymentMoved: lambda event, now, out: move_deployment(state, event, now, out),
            BeatHeard: lambda event, now, out: hear_beat(state, event, now, out),
            ContainerMoved: lambda event, now, out: hear_container(state, event, now, out),
            Refused: self._refuse,
            CancelAsked: self._cancel,
            Probed: self._probe,
            PayloadGone: self._payload_gone,
            ShardTaken: self._take,
            BrokerReached: self._reach,
            WorkerAnswered: self._answered,
            WorkerUnreachable: self._unreachable,
            Tick: lambda _, now, out: pass_time(state, now, out),
        }

    def step(self, event: Event, now: float) -> Sequence[Decision]:
        """Take in what happened at `now`; return what to do, in order."""
        out: list[Decision] = []
        self._handlers[type(event)](event, now, out)
        if self.state.unfilled:
            self.state.settle(now, out)
        return out

    def check(self) -> None:
        """Raise AssertionError if an invariant of `dispatch_checks.py` does not hold."""
        check(self.state)

    def settled(self, now: float) -> bool:
        """Return whether an id that is unknown here is surely not in any worker either."""
        return self.state.settled(now)

    def needs_tick(self, now: float) -> bool:
        """Return whether a tick at `now` would find anything to do."""
        state = self.state
        return bool(
            state.dirty
            or (state.due and state.due[0][0] <= now)
            or state.orphans
            or state.ending
            or state.overflowed
            or state.liveness.sights
            or state.queues
            or state.keys.closed
            or state.audit.needs_tick(now)
        )

    def loads(self) -> dict[Any, int]:
        """Return how many invocations each container holds right now."""
        return {c.container_id: len(c.occupied) for c in self.state.containers.values()}

    # -- Calls ----------------------------------------------------------------------------------

    def _arrive(self, event: RequestArrived, now: float, out: list[Decision]) -> None:
        state = self.state
        request, sequence = event.request, event.sequence
        known = state.items.get(request.invocation_id)
        if known is not None and not self._supersedes(known, event, now, out):
            return
        if (sequence, request.invocation_id) in state.acked:
            out.append(Ack(sequence))
            return
        if state.cancelled.within(request.invocation_id, now, CANCEL_KEPT_S):
            state.ack(sequence, request.invocation_id, now, out)
            return
        if len(state.items) >= 2 * state.backlog_max:
            attempt, reply_to = request.attempt, request.reply_to
            out.append(SendLost(request.invocation_id, attempt, reply_to, "refused"))
            state.ack(sequence, request.invocation_id, now, out)
            return
        item = self._item(request, sequence, event.size, now)
        queue = item.queue
        stranger_in = state.strangers.get(item.invocation_id)
        if stranger_in is not None and request.attempt == 1:
            # The generation before us handed it and could not acknowledge: it runs already.
            state.uncache(item)
            state.fly(item, stranger_in, now)
            state.ack(sequence, request.invocation_id, now, out)
        elif (
            not queue.deleted
            and not queue.waiting
            and (container := queue.freest()) is not None
            and not state.throttle(queue, now)
        ):
            state.hand(item, container, now, out)
        else:
            state.wait(item, now)
            # The attempt that this one supersedes may have left a stranger's slot behind.
            state.fill(queue, now, out)
        state.touch(queue, now, out)

    def _supersedes(
        self, known: Item, event: RequestArrived, now: float, out: list[Decision]
    ) -> bool:
        """Tell whether a call replaces the one known under its id; put the old one away if so."""
        state = self.state
        if known.durable or event.request.attempt <= known.attempt:
            if known.sequence != event.sequence:
                state.ack(event.sequence, known.invocation_id, now, out)
            elif known.place is Place.FLYING and (
                not known.reading or now - known.since >= REDELIVERED_S
            ):
                out.append(Ack(event.sequence))
            return False
        queue = known.queue
        if known.place is Place.FLYING:
            state.demote(known)
        else:
            state.ack(known.sequence, known.invocation_id, now, out)
            state.forget(known, now)
        state.touch(queue, now, out)
        return True

    def _item(self, request: InvocationRequested, sequence: int, size: int, now: float) -> Item:
        state = self.state
        queue = state.queue(request.deployment_id)
        # What no stream holds is kept whatever the cache says: there is no second copy.
        cached = sequence == 0 or state.cached_bytes + size <= state.cache_bytes_max
        item = Item(
            invocation_id=request.invocation_id,
            workspace=request.workspace,
            queue=queue,
            sequence=sequence,
            ticket=state.ticket(),
            attempt=request.attempt,
            priority=request.priority,
            inputs=len(request.inputs),
            request=request if cached else None,
            size=size if cached else 0,
            reply_to=request.reply_to,
            trace=request.trace,
            accepted_at=request.accepted_at,
            arrived=now,
        )
        state.add(item)
        state.cached_bytes += item.size
        queue.arrivals += item.inputs
        if request.deadline_s > 0:
            item.expires_at = now + request.deadline_s
            state.remind(item.expires_at, item, Place.GONE)
        return item

    def _end(self, event: Ended, now: float, out: list[Decision]) -> None:
        state = self.state
        ended = event.ended
        container = state.containers.get(ended.container_id)
        if container is not None and container.refusing == "full":
            # A call that came straight from a gateway was in its slot; now there is room.
            container.refusing = ""
            state.reopen(container)
            state.fill(container.queue, now, out)
        for invocation_id in ended.invocation_ids:
            item = state.items.get(invocation_id)
            if (
                item is not None
                and item.place is Place.FLYING
                and item.container_id == ended.container_id
            ):
                self._land_ended(item, now)
                queue = item.queue
            elif state.strangers.get(invocation_id) == ended.container_id and container:
                state.drop_stranger(invocation_id)
                container.ended[invocation_id] = now
                queue = container.queue
            else:
                if container is not None:
                    container.ended[invocation_id] = now
                continue
            state.fill(queue, now, out)
            state.touch(queue, now, out)

    def _land_ended(self, item: Item, now: float) -> None:
        if item.durable:
            self.state.land(item, Place.ENDING, now)
            item.since = now
            self.state.ending.append(item)
            # Not seen running: its claim failed, unless the record's news are still on their way.
            self.state.remind(now + UNCLAIMED_S, item, Place.ENDING)
        else:
            self.state.forget(item, now)

    def _refuse(self, event: Refused, now: float, out: list[Decision]) -> None:
        state = self.state
        refused = event.refused
        container = state.containers.get(refused.container_id)
        about_record = refused.reason in RECORD_REASONS
        if container is not None and not about_record:
            container.refusing = refused.reason or "unsaid"
            state.reopen(container)
        item = state.items.get(refused.invocation_id)
        if item is None:
            if refused.request is not None:
                self._arrive(RequestArrived(refused.request, 0, event.size), now, out)
            return
        if item.place is not Place.FLYING or item.container_id != refused.container_id:
            return
        queue = item.queue
        if item.durable and about_record:
            if item.refused == item.sequence:  # twice: its news may never come by themselves
                out.append(VerifyRecord(item.invocation_id, item.workspace, item.sequence))
            item.refused = item.sequence
            state.land(item, Place.DELAYED, now)
            item.since = now
            state.remind(now + RECORD_PAUSE_S, item, Place.DELAYED)
        elif item.durable:
            state.land(item, Place.GONE, now)
            state.wait(item, now)
        elif refused.request is not None:
            state.land(item, Place.GONE, now)
            item.request, item.size, item.sequence = refused.request, event.size, 0
            state.cached_bytes += event.size
            state.wait(item, now)
        else:
            state.lose(item, "refused", None, now, out)
        state.fill(queue, now, out)
        state.touch(queue, now, out)

    def _cancel(self, event: CancelAsked, now: float, out: list[Decision]) -> None:
        state = self.state
        item = state.items.get(event.invocation_id)
        container_id = state.strangers.get(event.invocation_id)
        if item is None:
            state.cancelled.add(event.invocation_id, now)
        elif item.place is Place.FLYING:
            container_id = item.container_id
        elif not item.durable:  # a durable one's record says whether it is cancelled
            state.cancelled.add(event.invocation_id, now)
            state.ack(item.sequence, item.invocation_id, now, out)
            state.forget(item, now)
            state.touch(item.queue, now, out)
        container = state.containers.get(container_id) if container_id is not None else None
        if container is not None:
            out.append(
                ForwardCancel(container.worker_id, container.container_id, event.invocation_id)
            )

    def _probe(self, event: Probed, now: float, out: list[Decision]) -> None:
        state = self.state
        unknown = tuple(
            i for i in event.invocation_ids if i not in state.items and i not in state.strangers
        )
        known = CallsKnown(unknown=unknown, settled=self.settled(now), generation=state.generation)
        out.append(AnswerProbe(event.token, known))

    def _payload_gone(self, event: PayloadGone, now: float, out: list[Decision]) -> None:
        item = self.state.items.get(event.invocation_id)
        if item is None or item.durable or item.sequence != event.sequence:
            return
        if item.place is Place.FLYING:
            queue = item.queue
            self.state.lose(item, "refused", None, now, out)
            self.state.fill(queue, now, out)
            self.state.touch(queue, now, out)

    # -- Ownership, workers ---------------------------------------------------------------------

    def _take(self, event: ShardTaken, now: float, _: list[Decision]) -> None:
        self.state.generation = event.generation
        self.state.taken_at = now

    def _reach(self, event: BrokerReached, now: float, out: list[Decision]) -> None:
        self.state.liveness.reached(now, connected=event.connected)
        if event.connected:
            self.state.audit.soon(now)
            for worker_id in list(self.state.by_worker):
                reopen_worker(self.state, worker_id, now, out)

    def _answered(self, event: WorkerAnswered, now: float, out: list[Decision]) -> None:
        self.state.liveness.touched(event.worker_id, now)
        reopen_worker(self.state, event.worker_id, now, out)

    def _unreachable(self, event: WorkerUnreachable, now: float, out: list[Decision]) -> None:
        if self.state.liveness.unreachable(event.worker_id, now):
            lose_worker(self.state, event.worker_id, now, out)
