"""How much one workspace may have in the store: the trees of its images, its models, and its blobs.

Counted as if nothing were shared, so that a quota means the same whoever else has the same bytes. What was
counted is good for COUNTED_KEPT_S; what this replica has let in since is added to it. A blob whose length nobody
says is let in while there is any room, so a quota can be passed by one blob, and by what replicas let in at once.
Builds hold room for what they pull until it is counted with their image.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
from glowplug_contracts.errors import QuotaExceededError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.streams import IMAGES, MODELS
from glowplug_runtime.bus import Bus

from glowplug_imagecache.store import Store

COUNTED_KEPT_S = 10.0

Count = Callable[[WorkspaceId], Awaitable[int]]


class _Counted(msgspec.Struct):
    bytes: int
    at: float


class Room:
    """What one build may store, beside what its workspace has; made by `Quota.room`."""

    def __init__(self, quota: Quota, workspace: WorkspaceId) -> None:
        self._quota = quota
        self._workspace = workspace
        self._bytes = 0

    async def hold(self, size: int) -> None:
        """Hold room for so many bytes in all. Raises: QuotaExceededError (store.full)."""
        await self._quota.promise(self._workspace, size - self._bytes)
        self._bytes = size

    def close(self) -> None:
        """Give it back."""
        self._quota.unpromise(self._workspace, self._bytes)
        self._bytes = 0


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
        self._promised: Counter[WorkspaceId] = Counter()

    async def check(self, workspace: WorkspaceId | None, size: int) -> None:
        """Let bytes in. Raises: QuotaExceededError (store.full). The platform's own have no quota."""
        if workspace is None or not self._bytes_max:
            return
        known = await self._known(workspace)
        if known.bytes + self._promised[workspace] >= self._bytes_max:
            raise self._full(workspace, known, size)
        self._refuse_beyond(workspace, known, size)
        known.bytes += size

    def room(self, workspace: WorkspaceId) -> Room:
        """Return room for a build that nobody knows the size of yet."""
        return Room(self, workspace)

    async def promise(self, workspace: WorkspaceId, size: int) -> None:
        """Let a build have so much more (Room only). Raises: QuotaExceededError (store.full)."""
        if self._bytes_max and size > 0:
            self._refuse_beyond(workspace, await self._known(workspace), size)
        self._promised[workspace] += size

    def unpromise(self, workspace: WorkspaceId, size: int) -> None:
        """Take a promise back (Room only)."""
        self._promised[workspace] -= size
        if not self._promised[workspace]:
            del self._promised[workspace]

    def add(self, workspace: WorkspaceId | None, size: int) -> None:
        """Count bytes that were let in before anybody knew how many there are."""
        known = self._counted.get(workspace) if workspace is not None else None
        if known is not None:
            known.bytes += size

    async def _known(self, workspace: WorkspaceId) -> _Counted:
        known = self._counted.get(workspace)
        if known is None or self._now() - known.at >= COUNTED_KEPT_S:
            self._drop_old()
            known = _Counted(await self._count(workspace), self._now())
            self._counted[workspace] = known
        return known

    def _refuse_beyond(self, workspace: WorkspaceId, known: _Counted, size: int) -> None:
        if known.bytes + self._promised[workspace] + size > self._bytes_max:
            raise self._full(workspace, known, size)

    def _full(self, workspace: WorkspaceId, known: _Counted, size: int) -> QuotaExceededError:
        has = known.bytes + self._promised[workspace]
        return QuotaExceededError(
            "store.full",
            f"images and blobs of the workspace come to {has} bytes, and {size} more are "
            f"beyond its {self._bytes_max}; `glowplug image usage` shows them, `glowplug image "
            "prune` gives up what nothing needs",
            details={"bytes": has, "bytes_max": self._bytes_max},
        )

    def _drop_old(self) -> None:
        before = self._now() - COUNTED_KEPT_S
        self._counted = {name: one for name, one in self._counted.items() if one.at > before}


def counting(bus: Bus, store: Store) -> Count:
    """Return what counts a workspace's images, models and blobs."""

    async def count(workspace: WorkspaceId) -> int:
        entries = await bus.bucket(IMAGES).entries(workspace)
        images = sum(entry.value.bytes_total for entry in entries if entry.value is not None)
        named = await bus.bucket(MODELS).entries(workspace)
        models = [entry.value for entry in named if entry.value is not None]
        weights = sum(one.bytes_total for model in models for one in model.versions)
        return images + weights + await asyncio.to_thread(store.kept_bytes, workspace)

    return count
