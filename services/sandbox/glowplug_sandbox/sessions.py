"""Sessions in the store: every change is a step of the pure machine, written by compare-and-set.

After each write the wish for the container is made to match the record. Whoever dies between the two
leaves a mismatch that the next reconciliation repairs.
"""

from __future__ import annotations

import contextlib

from glowplug_contracts.errors import ConflictError, NotFoundError
from glowplug_contracts.ids import SandboxId, WorkspaceId, check_id, check_token
from glowplug_contracts.messages.sandbox import SandboxRecord
from glowplug_runtime.clock import Clock

from glowplug_sandbox.ports import Records, Wishes
from glowplug_sandbox.session import Event, check, is_live, step, wanted_of


def key_of(workspace: WorkspaceId, sandbox_id: SandboxId) -> str:
    """Return a session's key. Raises: InvalidRequestError if it can't be one."""
    return f"{check_token(workspace)}.{check_id('sandbox', sandbox_id)}"


class Sessions:
    """All sessions of the platform, through the store."""

    def __init__(self, records: Records, wishes: Wishes, clock: Clock) -> None:
        self._records = records
        self._wishes = wishes
        self._clock = clock

    async def get(self, key: str) -> SandboxRecord:
        """Return a session. Raises: NotFoundError."""
        entry = await self._records.get(key)
        if entry is None or entry.value is None:
            raise NotFoundError(
                "sandbox.not_found", f"there is no sandbox {key.rpartition('.')[2]}"
            )
        return entry.value

    async def create(self, record: SandboxRecord) -> SandboxRecord:
        """Store a new session, or return the one that an earlier try of the same id stored."""
        key = key_of(record.workspace, record.sandbox_id)
        try:
            await self._records.create(key, record)
        except ConflictError:
            record = await self.get(key)
        await self.match_wish(record)
        return record

    async def change(self, key: str, event: Event) -> SandboxRecord:
        """Let a session take an event; return it as it is then. Raises: NotFoundError."""
        while True:
            entry = await self._records.get(key)
            if entry is None or entry.value is None:
                raise NotFoundError(
                    "sandbox.not_found", f"there is no sandbox {key.rpartition('.')[2]}"
                )
            after = step(entry.value, event, self._clock.unix())
            check(after)
            if after == entry.value:
                return after
            try:
                await self._records.update(key, after, entry.revision)
            except ConflictError:
                continue  # somebody else changed it: decide again from what is there now
            if is_live(after) != is_live(entry.value):
                await self.match_wish(after)
            return after

    async def match_wish(self, record: SandboxRecord) -> None:
        """Make the wish for its container match the record."""
        if is_live(record):
            with contextlib.suppress(ConflictError):
                await self._wishes.create(record.container_id, wanted_of(record))
        else:
            await self._wishes.delete(record.container_id)
