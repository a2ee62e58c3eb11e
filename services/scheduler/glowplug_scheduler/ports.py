"""What the scheduler needs of the outside, in its own words.

`Workers` is the one door through which work and containers reach workers: handing straight from a
gateway that holds credit would be another adapter of it.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from glowplug_contracts.ids import ContainerId, InvocationId, WorkerId
from glowplug_contracts.messages.container import BindContainer, BindReply, StopContainer
from glowplug_contracts.messages.dispatch import RunInvocation
from glowplug_contracts.messages.worker import ForgetTemplates

from glowplug_scheduler.dispatch_types import WriteRecord


class Presence(Enum):
    """What a direct question to a worker showed."""

    ANSWERED = "answered"
    UNREACHABLE = "unreachable"
    SILENT = "silent"


class Workers(Protocol):
    """Sending to workers."""

    async def hand(self, worker_id: WorkerId, run: RunInvocation) -> None:
        """Send work to a slot; nobody confirms it, beats tell."""

    async def cancel(
        self, worker_id: WorkerId, container_id: ContainerId, invocation_id: InvocationId
    ) -> None:
        """Ask for an attempt to be stopped."""

    async def bind(self, worker_id: WorkerId, bind: BindContainer) -> BindReply:
        """Ask for a container to be started. Raises: UnavailableError (it may have been taken)."""

    async def stop(self, worker_id: WorkerId, stop: StopContainer) -> None:
        """Ask for a container to be ended."""

    async def forget(self, worker_id: WorkerId, forget: ForgetTemplates) -> None:
        """Let it drop the templates of deployments that are over."""

    async def ask(self, worker_id: WorkerId) -> Presence:
        """Ask whether it is there."""


class Records(Protocol):
    """Changing durable invocations."""

    async def change(self, shard: int, write: WriteRecord) -> None:
        """Make the change if the record still stands where the machine thinks it does.

        Raises: UnavailableError; a record that has moved on is no error.
        """
