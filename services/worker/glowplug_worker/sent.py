"""A durable invocation that its gateway sent straight here: claimed already, in the write that accepted it.

The gateway has stored the record as RUNNING in this container; its sequence is our token, and nothing is read or
written before the code runs. Whoever wrote something later makes our last write fail, as with every other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from glowplug_contracts.messages.dispatch import RunInvocation
from glowplug_contracts.messages.invocation import State, is_terminal
from glowplug_contracts.messages.record import InvocationRecord, ordered_by

from glowplug_worker.durable import DurableFlight

if TYPE_CHECKING:
    from glowplug_contracts.ids import ContainerId, WorkerId
    from glowplug_contracts.messages.container import ContainerSpec
    from glowplug_contracts.messages.link import TaskSent

    from glowplug_worker.supervisor import Supervisor


class SentFlight(DurableFlight):
    """See the module. `gateway` is the instance that sent it."""

    def __init__(self, supervisor: Supervisor, sent: TaskSent, gateway: str, process: int) -> None:
        record = sent.record
        run = RunInvocation(
            shard=sent.shard,
            generation=0,
            container_id=sent.container_id,
            deployment_id=record.deployment_id,
            record=record.invocation_id,
            record_sequence=sent.sequence,
            workspace=record.workspace,
        )
        super().__init__(supervisor, run, process)
        self._gateway = gateway
        self._sent_at = sent.sequence
        self._hold(msgspec.structs.replace(record, order=ordered_by(record, sent.sequence)))

    def is_of(self, sent: TaskSent) -> bool:
        """Return whether it is this very attempt."""
        return self._sent_at == sent.sequence

    def start(self) -> None:
        """Run it."""
        self.begin()

    async def tell_end(self) -> None:
        """Tell the gateway that sent it, with the record if that was its end."""
        last = self._last if self._last is not None and is_terminal(self._last.state) else None
        await self.supervisor.workshop.answers.task_ended(
            self._gateway, self.invocation_id, self._token, last, self.supervisor
        )


def is_ours(
    record: InvocationRecord, spec: ContainerSpec, worker_id: WorkerId, container_id: ContainerId
) -> bool:
    """Return whether a record that was sent runs in this container, as it says itself. Pure."""
    return (
        record.state is State.RUNNING
        and record.worker_id == worker_id
        and record.container_id == container_id
        and (record.deployment_id, record.workspace) == (spec.deployment_id, spec.workspace)
        and not record.pass_as
    )
