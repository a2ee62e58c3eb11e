"""The dispatcher's numbered invariants. Tests and the simulation call `check` after every step."""

from __future__ import annotations

from glowplug_scheduler.dispatch_state import ShardState
from glowplug_scheduler.queues import Container, DeploymentQueue, Place


def check(state: ShardState) -> None:
    """Raise AssertionError, naming the invariant, if the state contradicts itself."""
    for queue in state.queues.values():
        _check_queue(state, queue)
    for container in state.containers.values():
        _check_container(state, container)
    _check_items(state)
    state.keys.check()
    _hold(15, "what may be handed was handed", not state.unfilled)


def _check_queue(state: ShardState, queue: DeploymentQueue) -> None:
    mine = [item for item in state.items.values() if item.queue is queue]
    waiting = [item for item in mine if item.place is Place.WAITING]
    flying = [item for item in mine if item.place is Place.FLYING]
    strangers = [
        s for s, c in state.strangers.items() if c in state.containers and c in queue.containers
    ]
    _hold(1, "every waiting item is in its queue once", queue.waiting == len(waiting))
    _hold(1, "…and can be found there", {*queue.everyone()} == {*waiting})
    _hold(2, "queued inputs add up", queue.queued_inputs == sum(i.inputs for i in waiting))
    _hold(
        3,
        "flying inputs add up",
        queue.flying_inputs == sum(i.inputs for i in flying) + len(strangers),
    )
    throttled = queue.deployment_id in state.throttled
    _hold(
        4, "nothing waits beside a free slot", not (queue.waiting and queue.freest()) or throttled
    )
    _hold(3, "flying items add up", queue.flying == len(flying))
    _hold(14, "nothing waits for a deleted deployment", not (queue.deleted and waiting))
    _hold(
        14,
        "a queue knows whether it is deleted",
        queue.deleted == (queue.deployment_id in state.deleted),
    )
    _hold(5, "items add up", queue.items == len(mine))
    _hold(5, "an emptied queue is announced or will be", queue.dirty == _is_dirty(state, queue))


def _is_dirty(state: ShardState, queue: DeploymentQueue) -> bool:
    return queue.deployment_id in state.dirty


def _check_container(state: ShardState, container: Container) -> None:
    own = 0
    for invocation_id in container.occupied:
        item = state.items.get(invocation_id)
        here = (
            item is not None
            and item.place is Place.FLYING
            and item.container_id == container.container_id
        )
        own += here and item is not None and item.own
        known = here or state.strangers.get(invocation_id) == container.container_id
        _hold(6, f"{invocation_id} occupies a slot by right", known)
    _hold(7, f"{container.container_id} is not oversold", own <= container.slots)
    free = container.open and len(container.occupied) < container.slots
    _hold(8, "a free container can be found", not free or container.queue.freest() is not None)
    _hold(
        9,
        "containers are in their indexes",
        container.queue.containers.get(container.container_id) is container
        and state.by_worker[container.worker_id].get(container.container_id) is container,
    )


def _check_items(state: ShardState) -> None:
    cached = 0
    for invocation_id, item in state.items.items():
        _hold(10, "items are under their id", item.invocation_id == invocation_id)
        _hold(10, f"{invocation_id} has a place", item.place is not Place.GONE)
        cached += item.size
        if item.place is Place.FLYING:
            container = state.containers.get(item.container_id)
            seated = (
                invocation_id in state.orphans.get(item.container_id, {})
                if container is None
                else invocation_id in container.occupied
            )
            _hold(11, f"{invocation_id} flies in a slot, or is an orphan", seated)
    known = all(one in state.items for one in state.followers)
    _hold(16, "who waits for others is known", known)
    _hold(12, "cached bytes add up", state.cached_bytes == cached)
    for container_id in state.strangers.values():
        _hold(13, "strangers sit in known containers", container_id in state.containers)


def _hold(number: int, sentence: str, holds: bool) -> None:  # noqa: FBT001
    if not holds:
        raise AssertionError(f"dispatcher invariant {number}: {sentence}")
