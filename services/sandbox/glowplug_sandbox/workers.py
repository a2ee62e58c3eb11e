"""Workers over the bus: implements ports.Workers."""

from __future__ import annotations

from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import ExecInContainer, ExecReply
from glowplug_contracts.subjects import EXEC
from glowplug_runtime.bus import Bus

EXEC_TAKEN_S = 5.0


class BusWorkers:
    """Asks workers by their subject."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def run(self, worker_id: WorkerId, command: ExecInContainer) -> ExecReply:
        """Hand over an exec; its output goes to whoever `reply_to` names."""
        return await self._bus.request(
            EXEC.at(worker_id=worker_id), command, ExecReply, timeout_s=EXEC_TAKEN_S
        )
