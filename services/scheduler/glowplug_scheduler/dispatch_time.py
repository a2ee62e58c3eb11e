"""What the dispatcher does because time passed: due and expired work, silence, lost ends.

Nothing here is urgent to the millisecond; the shell ticks every 50 ms.
"""

from __future__ import annotations

import heapq

from glowplug_contracts.messages.invocation import State

from glowplug_scheduler.dispatch_audit import pass_audit, rescan
from glowplug_scheduler.dispatch_containers import close_worker, lose_worker
from glowplug_scheduler.dispatch_records import judge_incomplete, open_keys
from glowplug_scheduler.dispatch_state import ShardState
from glowplug_scheduler.dispatch_types import Decision
from glowplug_scheduler.events import AskWorker
from glowplug_scheduler.queues import Item, Place

# A container that a record or a hand-off names must be seen within this time.
ORPHAN_S = 2.5
ENDING_S = 10.0
# Everything is announced again each second: announcements may be lost, autoscalers restart.
ANNOUNCE_ALL_S = 1.0
QUEUE_KEPT_S = 600.0
ROOM_AGAIN = 0.9
BEFORE_START = frozenset({Place.WAITING, Place.DELAYED, Place.HELD})


def pass_time(state: ShardState, now: float, out: list[Decision]) -> None:
    """Do what has become due."""
    verdict = state.liveness.passed(now)
    for worker_id in verdict.silent:
        close_worker(state, worker_id)
    out.extend(AskWorker(worker_id) for worker_id in verdict.ask)
    for worker_id in verdict.dead:
        lose_worker(state, worker_id, now, out)
    for queue in list(state.throttled.values()):
        if queue.rate.free_at(now) <= now:
            del state.throttled[queue.deployment_id]  # `fill` puts it back where there is need
            state.fill(queue, now, out)
            state.touch(queue, now, out)
    open_keys(state, now, out)
    while state.due and state.due[0][0] <= now:
        _, _, item, place, since = heapq.heappop(state.due)
        _due(state, item, place, since, now, out)
    _chase_ends(state, now, out)
    if state.orphans and state.settled(now):
        _lose_orphans(state, now, out)
    for queue in list(state.dirty.values()):
        state.touch(queue, now, out)
    if now - state.announced_all_at >= ANNOUNCE_ALL_S:
        _announce_all(state, now, out)
    if state.overflowed and not state.is_full(ROOM_AGAIN):
        state.overflowed = False
        rescan(state, out)
    pass_audit(state, now, out)


def _due(
    state: ShardState, item: Item, place: Place, since: float, now: float, out: list[Decision]
) -> None:
    if place is Place.GONE:
        _expire(state, item, now, out)
    elif item.place is not place or item.since != since:
        return
    elif place is Place.DELAYED:
        item.arrived = now
        state.wait(item, now)
        state.fill(item.queue, now, out)
    elif place is Place.HELD:
        judge_incomplete(state, item, now, out)
    elif place is Place.ENDING:
        if item.state is State.RUNNING:
            return  # claimed: its worker writes the last word
        state.wait(item, now)
        state.fill(item.queue, now, out)
    elif place is Place.WRITING:
        state.write(item, item.next_state, item.cause, item.error, now, out)
    state.touch(item.queue, now, out)


def _expire(state: ShardState, item: Item, now: float, out: list[Decision]) -> None:
    if item.expires_at > now or item.place not in BEFORE_START:
        return
    if not item.durable:  # its gateway counts the deadline itself and has answered
        state.ack(item.sequence, item.invocation_id, now, out)
        state.forget(item, now)
    elif item.attempt == 0:
        if item.place is Place.WAITING:
            item.queue.remove(item, Place.WRITING)
        state.write(item, State.EXPIRED, "expired", None, now, out)


def _chase_ends(state: ShardState, now: float, out: list[Decision]) -> None:
    """A worker was done with a durable attempt, yet no last word came: try the attempt again."""
    ending = state.ending
    while ending and (ending[0].place is not Place.ENDING or now - ending[0].since >= ENDING_S):
        item = ending.popleft()
        if item.place is not Place.ENDING or now - item.since < ENDING_S:
            continue
        if item.state is State.RUNNING:
            state.retry(item, "worker", None, now, out)
            state.touch(item.queue, now, out)


def _lose_orphans(state: ShardState, now: float, out: list[Decision]) -> None:
    for orphans in list(state.orphans.values()):
        for invocation_id in list(orphans):
            item = state.items[invocation_id]
            if now - item.since >= ORPHAN_S:
                state.lose(item, "worker", None, now, out)
                state.fill(item.queue, now, out)
                state.touch(item.queue, now, out)


def _announce_all(state: ShardState, now: float, out: list[Decision]) -> None:
    state.announced_all_at = now
    if state.records_read:
        state.followups.sweep(now)
    for queue in list(state.queues.values()):
        if queue.items or queue.containers:
            state.touch(queue, now, out)
        elif (
            not queue.dirty
            and now - queue.active_at >= QUEUE_KEPT_S
            and not queue.rate.remembers(now)
        ):
            del state.queues[queue.deployment_id]
            state.throttled.pop(queue.deployment_id, None)
