"""What the dispatcher does about deleted deployments: nothing that waits for one may wait for ever.

What runs goes on until placement ends its container; what comes back from there, or arrives late, is
ended as soon as it would wait (`ShardState.fill`). A deployment that serves again takes work again.
"""

from __future__ import annotations

from glowplug_scheduler.dispatch_state import DELETED, ShardState
from glowplug_scheduler.dispatch_types import Decision, DeploymentMoved
from glowplug_scheduler.queues import Place


def move_deployment(
    state: ShardState, event: DeploymentMoved, now: float, out: list[Decision]
) -> None:
    """Take in that a deployment was deleted, or serves (again)."""
    if event.deleted == (event.deployment_id in state.deleted):
        return
    queue = state.queues.get(event.deployment_id)
    if queue is not None:
        queue.deleted = event.deleted
    if not event.deleted:
        state.deleted.discard(event.deployment_id)
        return
    state.deleted.add(event.deployment_id)
    if queue is None:
        return
    for item in [item for item in state.items.values() if item.queue is queue]:
        if item.place is Place.DELAYED:
            state.wait(item, now)
        elif item.place is Place.HELD:
            state.fail(item, DELETED, now, out)
    state.fill(queue, now, out)
    state.touch(queue, now, out)
