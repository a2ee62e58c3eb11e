"""How the dispatcher follows containers and workers: beats, container events, silence.

A worker's beat is its whole truth. A handed invocation that two later beats do not list, and that has
not ended, is lost. A container that ended stays ended whatever a late beat says; one whose worker fell
silent may come back.
"""

from __future__ import annotations

from glowplug_contracts.ids import (
    ContainerId,
    DeploymentId,
    InvocationId,
    WorkerId,
    WorkspaceId,
)
from glowplug_contracts.messages.container import ContainerChanged, ContainerKind, ContainerState
from glowplug_contracts.messages.invocation import PLATFORM_RETRIES_MAX, RemoteError
from glowplug_contracts.messages.worker import ContainerView
from glowplug_contracts.subjects import shard_of

from glowplug_scheduler.dispatch_state import ShardState
from glowplug_scheduler.dispatch_types import Began, Decision
from glowplug_scheduler.events import BeatHeard, ContainerMoved
from glowplug_scheduler.liveness import Heard
from glowplug_scheduler.queues import Container, Place

# Two beats may follow each other at once (a worker answers a ShardOwned); so time must pass, too.
MISSED_BEATS = 2
MISSED_AFTER_S = 0.8
# A beat written before an ENDED may be heard after it.
ENDED_KEPT_S = 2.0

_ORDER = {state: number for number, state in enumerate(ContainerState)}
_ENDS = frozenset({ContainerState.STOPPED, ContainerState.FAILED})


def hear_beat(state: ShardState, event: BeatHeard, now: float, out: list[Decision]) -> None:
    """Take in a worker's whole truth."""
    beat = event.beat
    silent = not state.liveness.usable(beat.worker_id)
    heard = state.liveness.heard(beat, now)
    if heard is Heard.STALE:
        return
    turned = silent or (beat.draining != (beat.worker_id in state.draining))
    (state.draining.add if beat.draining else state.draining.discard)(beat.worker_id)
    listed: set[ContainerId] = set()
    for view in beat.containers:
        if _is_ours(state, view.kind, view.workspace) and view.container_id not in state.buried:
            listed.add(view.container_id)
            _hear_view(state, beat.worker_id, view, now, out)
    for container in list(state.by_worker.get(beat.worker_id, {}).values()):
        if turned:
            state.reopen(container)
            state.fill(container.queue, now, out)
        if container.container_id in listed:
            continue
        container.absent += 1
        waited = container.absent >= MISSED_BEATS and now - container.seen_at >= MISSED_AFTER_S
        if waited or heard is Heard.RESTARTED:
            lose_container(state, container, "container", None, now, out)


def _hear_view(
    state: ShardState,
    worker_id: WorkerId,
    view: ContainerView,
    now: float,
    out: list[Decision],
) -> None:
    container = _seen(state, view.container_id, worker_id, view.deployment_id, now)
    changed = _advance(container, view.state, view.slots) or container.refusing != ""
    container.refusing = ""
    listed = set(view.in_flight)
    for invocation_id in list(container.occupied):
        if not _still_there(state, container, invocation_id, listed, now, out):
            changed = True
    for invocation_id in view.in_flight:
        if invocation_id not in container.occupied and invocation_id not in container.ended:
            state.add_stranger(container, invocation_id)
            changed = True
    container.ended = {i: at for i, at in container.ended.items() if now - at < ENDED_KEPT_S}
    if changed:
        state.reopen(container)
        state.fill(container.queue, now, out)
        state.touch(container.queue, now, out)


def _still_there(
    state: ShardState,
    container: Container,
    invocation_id: InvocationId,
    listed: set[InvocationId],
    now: float,
    out: list[Decision],
) -> bool:
    item = state.items.get(invocation_id)
    if item is None or item.container_id != container.container_id or item.place != Place.FLYING:
        if invocation_id not in listed:
            state.drop_stranger(invocation_id)
            return False
        return True
    if invocation_id in listed:
        item.missed = 0
        return True
    item.missed += 1
    if item.missed < MISSED_BEATS or now - item.since < MISSED_AFTER_S:
        return True
    state.lose(item, "worker", None, now, out)
    return False


def hear_began(state: ShardState, event: Began, now: float, out: list[Decision]) -> None:
    """Take in what a worker got straight from gateways: it occupies slots that nobody handed out."""
    began = event.began
    container = state.containers.get(began.container_id)
    if container is None:
        return
    queue = container.queue
    queue.arrivals += len(began.invocation_ids) + began.passed
    for invocation_id in began.invocation_ids:
        known = invocation_id in state.items or invocation_id in state.strangers
        # Not what a notice that was overtaken by its end names.
        if not known and invocation_id not in container.ended:
            state.add_stranger(container, invocation_id)
    brief = max(0, began.peak - len(began.invocation_ids))
    if brief > queue.brief.get(began.container_id, 0):
        queue.brief[began.container_id] = brief
    state.touch(queue, now, out)


def hear_container(
    state: ShardState, event: ContainerMoved, now: float, out: list[Decision]
) -> None:
    """Take in a container's new state."""
    change = event.change
    if not _is_ours(state, change.kind, change.workspace) or change.container_id in state.buried:
        return
    if change.state in _ENDS:
        _end(state, change, now, out)
        return
    state.liveness.touched(change.worker_id, now)
    container = _seen(state, change.container_id, change.worker_id, change.deployment_id, now)
    _advance(container, change.state, change.slots)
    container.refusing = ""
    state.reopen(container)
    state.fill(container.queue, now, out)
    state.touch(container.queue, now, out)


def _end(state: ShardState, change: ContainerChanged, now: float, out: list[Decision]) -> None:
    state.buried.add(change.container_id, now)
    container = state.containers.get(change.container_id)
    was_ready = container is not None and container.state in {
        ContainerState.READY,
        ContainerState.DRAINING,
    }
    if container is not None:
        lose_container(state, container, "container", change.error, now, out)
    for invocation_id in list(state.orphans.get(change.container_id, {})):
        state.lose(state.items[invocation_id], "container", change.error, now, out)
    queue = state.queue(change.deployment_id)
    failed = change.state is ContainerState.FAILED
    could_not_start = change.reason == "start_failed" or (
        not was_ready and change.error is not None
    )
    if failed and could_not_start:
        queue.start_failures += 1
        error = change.error or RemoteError(
            code="function.start_failed",
            type="StartFailedError",
            message="The container could not start, and its worker gave no reason.",
        )
        for item in () if queue.has_ready() else state.unstarted(queue):
            if _is_hopeless(error, queue.start_failures, durable=item.durable):
                state.fail(item, error, now, out)
    state.fill(queue, now, out)
    state.touch(queue, now, out)


def _is_hopeless(error: RemoteError, failures: int, *, durable: bool) -> bool:
    """Return whether another container would fail to start as well, after so many in a row.

    User code that raises does so each time. A process that was killed may have been in a machine's way,
    and a platform that could not bring the image will be well again, and a machine that lost a device or an
    image is one of many: accepted work outlives that.
    """
    if error.code.startswith(("platform.", "container.")):  # not of its own doing
        return not durable and failures > PLATFORM_RETRIES_MAX
    if error.details.get("signal") is not None:
        return failures > PLATFORM_RETRIES_MAX
    return True


def lose_container(
    state: ShardState,
    container: Container,
    cause: str,
    error: RemoteError | None,
    now: float,
    out: list[Decision],
) -> None:
    """A container is gone: so is what ran in it."""
    queue = container.queue
    queue.closed(container)
    for invocation_id in sorted(container.occupied):
        if state.strangers.get(invocation_id) == container.container_id:
            state.drop_stranger(invocation_id)
            continue
        state.lose(state.items[invocation_id], cause, error, now, out)
    del queue.containers[container.container_id]
    del state.containers[container.container_id]
    siblings = state.by_worker[container.worker_id]
    del siblings[container.container_id]
    if not siblings:
        del state.by_worker[container.worker_id]
    state.fill(queue, now, out)
    state.touch(queue, now, out)


def lose_worker(state: ShardState, worker_id: WorkerId, now: float, out: list[Decision]) -> None:
    """A worker is dead: its containers are gone."""
    state.draining.discard(worker_id)
    containers = list(state.by_worker.get(worker_id, {}).values())
    for container in containers:  # all first, so that what one loses is not handed to the next
        container.queue.closed(container)
    for container in containers:
        lose_container(state, container, "worker", None, now, out)


def close_worker(state: ShardState, worker_id: WorkerId) -> None:
    """A worker fell silent: nothing more goes there until it is heard."""
    for container in state.by_worker.get(worker_id, {}).values():
        state.reopen(container)


def reopen_worker(state: ShardState, worker_id: WorkerId, now: float, out: list[Decision]) -> None:
    """A silent worker is heard again."""
    for container in list(state.by_worker.get(worker_id, {}).values()):
        state.reopen(container)
        state.fill(container.queue, now, out)


def _is_ours(state: ShardState, kind: ContainerKind, workspace: WorkspaceId) -> bool:
    return kind is ContainerKind.FUNCTION and shard_of(workspace, state.shards) == state.shard


def _advance(container: Container, reached: ContainerState, slots: int) -> bool:
    """Move on to a state that lies ahead; tell whether anything changed. States never go back."""
    before = (container.state, container.slots)
    if _ORDER[reached] > _ORDER[container.state]:
        container.state = reached
        if reached is ContainerState.READY:
            container.queue.start_failures = 0
    container.slots = max(container.slots, slots)
    return before != (container.state, container.slots)


def _seen(
    state: ShardState,
    container_id: ContainerId,
    worker_id: WorkerId,
    deployment_id: DeploymentId,
    now: float,
) -> Container:
    container = state.containers.get(container_id)
    if container is None:
        queue = state.queue(deployment_id)
        container = Container(
            container_id=container_id, worker_id=worker_id, queue=queue, occupied=set(), ended={}
        )
        state.containers[container_id] = container
        queue.containers[container_id] = container
        state.by_worker.setdefault(worker_id, {})[container_id] = container
        for invocation_id in state.orphans.pop(container_id, {}):
            state.occupy(container, invocation_id)
    container.absent = 0
    container.seen_at = now
    return container
