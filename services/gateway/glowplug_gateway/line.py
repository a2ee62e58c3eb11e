"""Which durable work of this gateway still waits for its first slot, so that none is overtaken. Pure.

A dispatcher tells how much waits, but only now and then. What a gateway has accepted itself it knows at once,
and hears in the records' feed that it has begun. Whoever sends one task after another through one gateway has
them begin in that order, whichever way each goes.

Invariants (`check`): N1 what waits is counted once; N2 at most LINE_MAX are known, the oldest go first.
"""

from __future__ import annotations

from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import DeploymentId, InvocationId
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import InvocationRecord

LINE_MAX = 20_000


class Line:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[InvocationId, DeploymentId] = {}
        self._counts: dict[DeploymentId, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, record: InvocationRecord) -> None:
        """It is about to wait in its deployment's queue; what waits for something else does not count."""
        waits_for_a_slot = (
            record.state is State.ACCEPTED
            and not record.due_at
            and not record.key.key
            and not record.after
            and not record.rate.count
        )
        if not waits_for_a_slot or record.invocation_id in self._waiting:
            return
        if len(self._waiting) >= LINE_MAX:
            self.leave(next(iter(self._waiting)))
        self._waiting[record.invocation_id] = record.deployment_id
        self._counts[record.deployment_id] = self._counts.get(record.deployment_id, 0) + 1

    def leave(self, invocation_id: InvocationId) -> None:
        """It has begun or ended, or was never accepted."""
        deployment_id = self._waiting.pop(invocation_id, None)
        if deployment_id is None:
            return
        self._counts[deployment_id] -= 1
        if not self._counts[deployment_id]:
            del self._counts[deployment_id]

    def waits(self, deployment_id: DeploymentId) -> bool:
        """Return whether anything of ours waits there."""
        return deployment_id in self._counts

    def check(self) -> None:
        """Raise InvariantError unless every invariant holds (O(state))."""
        counts: dict[DeploymentId, int] = {}
        for deployment_id in self._waiting.values():
            counts[deployment_id] = counts.get(deployment_id, 0) + 1
        if counts != self._counts:
            raise InvariantError("platform.bug", "line: N1: the counts differ")
        if len(self._waiting) > LINE_MAX:
            raise InvariantError("platform.bug", "line: N2: too many")
