"""How the dispatcher follows durable invocations: their records' headers are all it needs.

The record is the truth; what we hold is a copy ordered for handing. A change of ours is asked for
(WriteRecord) and believed only when the record is seen to have moved.
"""

from __future__ import annotations

from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.invocation import RemoteError, State, is_terminal

from glowplug_scheduler.dispatch_state import DELETED, ShardState
from glowplug_scheduler.dispatch_types import Decision, ForwardCancel, RecordRemoved, RecordSeen
from glowplug_scheduler.followups import INCOMPLETE_S, Verdict, Waiting
from glowplug_scheduler.queues import Item, Place


def see_record(state: ShardState, event: RecordSeen, now: float, out: list[Decision]) -> None:
    """Take in a record's new state."""
    if event.sequence <= state.records_high:
        return
    state.records_high = event.sequence
    _note_start(state, event, now)
    believe(state, event, now, out)


def believe(state: ShardState, event: RecordSeen, now: float, out: list[Decision]) -> None:
    """Take in a record that is newer than what is known of it, if anything is."""
    tell_waiters(state, event, now, out)
    item = state.items.get(event.invocation_id)
    if item is not None and (not item.durable or event.sequence <= item.sequence):
        return
    if is_terminal(event.state):
        if event.after_count:
            state.followups.forget(event.invocation_id, now)
        state.gone.add(event.invocation_id, now)
        _end(state, item, event, now, out)
        return
    if item is None:
        if state.is_full() and event.state is not State.RUNNING and not _follows(event):
            state.overflowed = True  # it stays in its stream; ScanRecords brings it back
            if event.key and event.key_limit == 0:
                state.keys.miss(event.key, event.order or event.sequence)
            return
        item = _known(state, event, now)
    if event.state is State.RUNNING:
        _run(state, item, event, now, out)
    else:
        _queue(state, item, event, now, out)
    state.fill(item.queue, now, out)
    state.touch(item.queue, now, out)


def remove_record(state: ShardState, event: RecordRemoved, now: float, out: list[Decision]) -> None:
    """Forget a record that left its stream."""
    item = state.items.get(event.invocation_id)
    if item is None or not item.durable or event.sequence < item.sequence:
        return
    state.gone.add(event.invocation_id, now)
    state.forget(item, now)
    state.fill(item.queue, now, out)
    state.touch(item.queue, now, out)


def _known(state: ShardState, event: RecordSeen, now: float) -> Item:
    queue = state.queue(event.deployment_id)
    item = Item(
        invocation_id=event.invocation_id,
        workspace=event.workspace,
        queue=queue,
        sequence=0,
        ticket=state.ticket(),
        durable=True,
        arrived=now,
        accepted_at=event.accepted_at,
        trace=event.trace,
        order=event.order or event.sequence,
        key=event.key,
        key_limit=event.key_limit,
    )
    state.add(item)
    queue.arrivals += 1
    item.late = state.keys.comes_late(item, runs=event.state is State.RUNNING)
    return item


def _copy(item: Item, event: RecordSeen) -> None:
    item.sequence = event.sequence
    item.state = event.state
    item.attempt = event.attempt
    item.lost_attempts = event.lost_attempts
    item.priority = event.priority
    item.expires_at = event.expires_at


def _end(
    state: ShardState, item: Item | None, event: RecordSeen, now: float, out: list[Decision]
) -> None:
    cancelled = event.state is State.CANCELLED
    if item is None:
        if cancelled:
            cancel_stranger(state, event, out)
            if event.key:
                state.leave(event.invocation_id, event.key, event.sequence)
        return
    queue = item.queue
    container = state.containers.get(item.container_id)
    if cancelled and item.place is Place.FLYING:
        # Its code still runs: it keeps the slot until its worker says that it stopped.
        if container is not None:
            out.append(
                ForwardCancel(container.worker_id, container.container_id, item.invocation_id)
            )
        item.sequence = event.sequence
        state.demote(item)
    else:
        state.forget(item, now)
    state.fill(queue, now, out)
    state.touch(queue, now, out)


def cancel_stranger(state: ShardState, event: RecordSeen, out: list[Decision]) -> None:
    """Forward the end of something that a worker lists and we do not hold."""
    container_id = state.strangers.get(event.invocation_id)
    if container_id is not None:
        container = state.containers[container_id]
        out.append(ForwardCancel(container.worker_id, container_id, event.invocation_id))


def _run(state: ShardState, item: Item, event: RecordSeen, now: float, out: list[Decision]) -> None:
    here = item.container_id == event.container_id
    if here and item.place in {Place.FLYING, Place.ENDING}:
        _copy(item, event)  # ENDING: its end was heard before its start; nothing occupies a slot
        return
    _lift(state, item, now)
    _copy(item, event)
    if item.key:
        state.keys.hold(item)
    state.fly(item, event.container_id, now)
    if event.container_id in state.buried:
        state.lose(item, "container", None, now, out)


def _queue(
    state: ShardState, item: Item, event: RecordSeen, now: float, out: list[Decision]
) -> None:
    _lift(state, item, now)
    _copy(item, event)
    if _follows(event):
        item.after_count, item.after_if = event.after_count, event.after_if
        item.place = Place.HELD
        item.since = now
        state.followers.add(item.invocation_id)
        state.remind(now + INCOMPLETE_S, item, Place.HELD)
        _judge(state, state.followups.wait(item, now), now, out)
        return
    if item.expires_at > 0 and item.attempt == 0:
        state.remind(item.expires_at, item, Place.GONE)
    if event.due_at > now and not item.queue.deleted:
        item.place = Place.DELAYED
        item.since = now
        state.remind(event.due_at, item, Place.DELAYED)
        if item.key and item.key_limit > 0:
            state.admit(state.keys.release(item))
        elif item.key and not item.holds_key:
            state.admit(state.keys.ask(item))
    else:
        state.wait(item, now)


def _follows(event: RecordSeen) -> bool:
    """Return whether it waits for the ends of others."""
    return event.after_count > 0 and event.attempt == 0 and event.state is State.ACCEPTED


def tell_waiters(state: ShardState, event: RecordSeen, now: float, out: list[Decision]) -> None:
    """Tell those that wait for this one's end; told twice, it counts once."""
    for waiter in event.then:
        _tell_waiter(state, waiter, event, now, out)


def _tell_waiter(
    state: ShardState, waiter: InvocationId, event: RecordSeen, now: float, out: list[Decision]
) -> None:
    waiting = state.followups.told(
        event.invocation_id,
        waiter,
        now,
        ended=is_terminal(event.state),
        well=event.state is State.SUCCEEDED,
        sequence=event.sequence,
    )
    if waiting is not None:
        _judge(state, waiting, now, out)


def _judge(state: ShardState, waiting: Waiting, now: float, out: list[Decision]) -> None:
    """Do with one that waits for ends what they ask for."""
    item, verdict = waiting.item, waiting.verdict()
    if item is None or item.place is not Place.HELD or not item.after_count:
        return
    if item.queue.deleted:
        state.fail(item, DELETED, now, out)
    elif verdict is Verdict.RUN:
        item.after_count = 0
        state.followers.discard(item.invocation_id)
        item.arrived = now
        state.wait(item, now)
        state.unfilled[item.queue.deployment_id] = item.queue
    elif verdict is Verdict.FAIL:
        state.write(
            item, State.FAILED, "predecessor", _failed(next(iter(waiting.failed))), now, out
        )
    elif verdict is Verdict.DROP:
        state.write(item, State.CANCELLED, "not_needed", NOT_NEEDED, now, out)


def judge_incomplete(state: ShardState, item: Item, now: float, out: list[Decision]) -> None:
    """What an item waits for should have come long ago; perhaps whoever wrote it died in between."""
    waiting = state.followups.wait(item, now)
    if not item.after_count:
        return
    if len(waiting.seen) < item.after_count and state.records_read:
        state.write(item, State.FAILED, "incomplete", INCOMPLETE, now, out)
    else:
        item.since = now
        state.remind(now + INCOMPLETE_S, item, Place.HELD)


NOT_NEEDED = RemoteError(
    code="invocation.cancelled",
    type="CancelledError",
    message="what it was to run after the failure of has succeeded",
)
INCOMPLETE = RemoteError(
    code="invocation.predecessor_gone",
    type="PredecessorFailedError",
    message="what it waits for was never accepted; put the whole of it again",
)


def _failed(member: InvocationId) -> RemoteError:
    return RemoteError(
        code="invocation.predecessor_failed",
        type="PredecessorFailedError",
        message=f"{member}, which it waits for, did not succeed",
        details={"task_id": member},
    )


def _note_start(state: ShardState, event: RecordSeen, now: float) -> None:
    """Count a start that this machine did not decide towards its queue's rate.

    A record tells of its last attempt only: all of them count as begun then, so that the limit holds.
    """
    if not event.rate_count:
        return
    rate = state.queue(event.deployment_id).rate
    rate.limit(event.rate_count, event.rate_period_s)
    pin_start(state, event, now)
    item = state.items.get(event.invocation_id)
    ours = item is not None and item.handed_attempt >= event.attempt
    if event.started_at <= now - event.rate_period_s or ours:
        return
    if state.keys.closed:
        rate.note(min(event.started_at, now), max(1, event.attempt))
    elif event.state is State.RUNNING:
        rate.note(min(event.started_at, now))


def pin_start(state: ShardState, event: RecordSeen, now: float) -> None:
    """Let the next owner hear of one that ended, as long as its start counts for a rate."""
    until = event.started_at + event.rate_period_s
    if event.rate_count and is_terminal(event.state) and until > now:
        state.audit.rated.append((event.sequence, until))


def read_all(state: ShardState, start: int, now: float, out: list[Decision]) -> None:
    """Everything that stood in the stream is known, as far as its reader is to be trusted."""
    state.records_read = True
    state.audit.began(start, now)
    open_keys(state, now, out)


def open_keys(state: ShardState, now: float, out: list[Decision]) -> None:
    """Let what must know of others go on, once all is known: the records, and what workers have begun.

    What the generation before us handed is claimed or refused by the time that we are settled.
    """
    if not state.keys.closed or not state.records_read or not state.settled(now):
        return
    state.cancelled_keys.clear()  # every live worker has told what it runs
    state.admit(state.keys.open())
    throttled, state.throttled = state.throttled, {}
    for queue in throttled.values():
        state.fill(queue, now, out)
        state.touch(queue, now, out)


def _lift(state: ShardState, item: Item, now: float) -> None:
    """Take an item out of wherever it is, so that it can be put somewhere else."""
    state.followers.discard(item.invocation_id)
    if item.place is Place.WAITING:
        item.queue.remove(item, Place.GONE)
    elif item.place is Place.FLYING:
        state.land(item, Place.GONE, now)
