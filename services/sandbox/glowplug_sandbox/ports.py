"""What the sandbox service needs of the world, beside hearing the bus."""

from __future__ import annotations

from typing import Protocol

from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import ContainerWanted, ExecInContainer, ExecReply
from glowplug_contracts.messages.sandbox import SandboxRecord
from glowplug_runtime.bus import Entry


class Records(Protocol):
    """Where sessions are kept, by key `workspace.sandbox_id`."""

    async def get(self, key: str) -> Entry[SandboxRecord] | None:
        """Return the record, or None."""

    async def create(self, key: str, value: SandboxRecord) -> int:
        """Write a new one. Raises: ConflictError if there is one."""

    async def update(self, key: str, value: SandboxRecord, revision: int) -> int:
        """Write it if it is still at `revision`. Raises: ConflictError."""


class Wishes(Protocol):
    """Which containers are wanted, by container id."""

    async def create(self, key: str, value: ContainerWanted) -> int:
        """Want it. Raises: ConflictError if it is wanted already."""

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Want it no more."""


class Workers(Protocol):
    """The workers that hold sandboxes."""

    async def run(self, worker_id: WorkerId, command: ExecInContainer) -> ExecReply:
        """Hand over an exec. Raises: UnavailableError if the worker does not answer."""
