"""The door to workers over the bus (adapter of `ports.Workers`)."""

from __future__ import annotations

from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import DEFAULT_WORKSPACE, ContainerId, InvocationId, WorkerId
from glowplug_contracts.messages.container import (
    BindContainer,
    BindReply,
    ContainerKind,
    ContainerSpec,
    StopContainer,
)
from glowplug_contracts.messages.dispatch import CancelInvocation, RunInvocation
from glowplug_contracts.messages.worker import ForgetTemplates
from glowplug_contracts.subjects import BIND, CANCEL_ATTEMPT, FORGET, RUN, STOP, Address
from glowplug_runtime.bus import Bus

from glowplug_scheduler.ports import Presence

BIND_TIMEOUT_S = 3.0
ASK_TIMEOUT_S = 1.0
# No worker may accept it: its generation is older than any. Only the answering matters.
QUESTION = BindContainer(
    container_id=ContainerId("ctr_question"),
    generation=-1,
    spec=ContainerSpec(kind=ContainerKind.FUNCTION, workspace=DEFAULT_WORKSPACE),
)


class BusWorkers:
    """Workers as subjects."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # Making an address costs more than sending to it; there are few workers.
        self._run: dict[WorkerId, Address[RunInvocation]] = {}

    async def hand(self, worker_id: WorkerId, run: RunInvocation) -> None:
        """See the port."""
        address = self._run.get(worker_id)
        if address is None:
            address = self._run[worker_id] = RUN.at(worker_id=worker_id)
        await self._bus.send(address, run)

    async def cancel(
        self, worker_id: WorkerId, container_id: ContainerId, invocation_id: InvocationId
    ) -> None:
        """See the port."""
        cancel = CancelInvocation(invocation_id=invocation_id, container_id=container_id)
        await self._bus.send(CANCEL_ATTEMPT.at(worker_id=worker_id), cancel)

    async def bind(self, worker_id: WorkerId, bind: BindContainer) -> BindReply:
        """See the port."""
        at = BIND.at(worker_id=worker_id)
        return await self._bus.request(at, bind, BindReply, timeout_s=BIND_TIMEOUT_S)

    async def stop(self, worker_id: WorkerId, stop: StopContainer) -> None:
        """See the port."""
        await self._bus.send(STOP.at(worker_id=worker_id), stop)

    async def forget(self, worker_id: WorkerId, forget: ForgetTemplates) -> None:
        """See the port."""
        await self._bus.send(FORGET.at(worker_id=worker_id), forget)

    async def ask(self, worker_id: WorkerId) -> Presence:
        """See the port. A worker whose connection is gone is known at once; a slow one is not."""
        at = BIND.at(worker_id=worker_id)
        try:
            await self._bus.request(at, QUESTION, BindReply, timeout_s=ASK_TIMEOUT_S)
        except UnavailableError as error:
            nobody = bool(error.details.get("nobody_listens"))
            return Presence.UNREACHABLE if nobody else Presence.SILENT
        except PlatformError:
            return Presence.ANSWERED
        return Presence.ANSWERED
