"""How much one workspace may have in the store: the trees of its images, and its blobs.

Counted as if nothing were shared, so that a quota means the same whoever else has the same bytes. What was
counted is good for COUNTED_KEPT_S; what this replica has let in since is added to it. A blob whose length nobody
says is let in while there is any room, so a quota can be passed by one blob, and by what replicas let in at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from glowplug_contracts.errors import QuotaExceededError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.streams import IMAGES
from glowplug_runtime.bus import Bus

from glowplug_imagecache.store import Store

COUNTED_KEPT_S = 10.0

Count = Callable[[WorkspaceId], Awaitable[int]]


class _Counted(msgspec.Struct):
    bytes: int
    at: float


class Quota:
    """The quota of every workspace.

    Args:
        bytes_max: of each; 0 = none.
        count: says what a workspace has.
        now: monotonic seconds.
    """

    def __init__(self, bytes_max: int, count: Count, now: Callable[[], float]) -> None:
        self._bytes_max = bytes_max
        self._count = count
        self._now = now
        self._counted: dict[WorkspaceId, _Counted] = {}

    async def check(self, workspace: WorkspaceId | None, size: int) -> None:
        """Let bytes in. Raises: QuotaExceededError (store.full). The platform's own have no quota."""
        if workspace is None or not self._bytes_max:
            return
        known = self._counted.get(workspace)
        if known is None or self._now() - known.at >= COUNTED_KEPT_S:
            self._drop_old()
            known = _Counted(await self._count(workspace), self._now())
            self._counted[workspace] = known
        if known.bytes >= self._bytes_max or known.bytes + size > self._bytes_max:
            raise QuotaExceededError(
                "store.full",
                f"images and blobs of the workspace come to {known.bytes} bytes, and {size} more are "
                f"beyond its {self._bytes_max}; `glowplug image usage` shows them, `glowplug image "
                "prune` gives up what nothing needs",
                details={"bytes": known.bytes, "bytes_max": self._bytes_max},
            )
        known.bytes += size

    def add(self, workspace: WorkspaceId | None, size: int) -> None:
        """Count bytes that were let in before anybody knew how many there are."""
        known = self._counted.get(workspace) if workspace is not None else None
        if known is not None:
            known.bytes += size

    def _drop_old(self) -> None:
        before = self._now() - COUNTED_KEPT_S
        self._counted = {name: one for name, one in self._counted.items() if one.at > before}


def counting(bus: Bus, store: Store) -> Count:
    """Return what counts a workspace's images and blobs."""

    async def count(workspace: WorkspaceId) -> int:
        entries = await bus.bucket(IMAGES).entries(workspace)
        images = sum(entry.value.bytes_total for entry in entries if entry.value is not None)
        return images + await asyncio.to_thread(store.kept_bytes, workspace)

    return count
