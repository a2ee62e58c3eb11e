"""Queues that user code shares: a partition's items are the messages on its subject, oldest first.

Putting appends (fsynced before the answer). Getting reads the oldest and removes it: of several getters, in any
gateway, the broker lets one succeed. So each item is given out at most once: a getter that dies with it in hand
takes it along. Whoever waits hears puts as they pass, and also looks now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final

from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.state import QueueItem
from glowplug_contracts.subjects import QUEUE_ITEM, Address
from glowplug_runtime.bus import Delivery

from glowplug_gateway.ports import Platform

# How long a waiting getter believes that nothing came although it heard nothing.
LOOK_S: Final = 1.0
CLEAR_MAX: Final = 100_000


class _Line:
    """The getters of one partition at this gateway."""

    def __init__(self) -> None:
        self.users = 0
        self.taking = asyncio.Lock()
        self.came = asyncio.Event()


class Queues:
    """See the module."""

    def __init__(self, platform: Platform) -> None:
        self._bus = platform.bus
        self._clock = platform.clock
        self._lines: dict[str, _Line] = {}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear of puts while the context is open."""
        listening = await self._bus.listen(QUEUE_ITEM.pattern(), self._on_put)
        try:
            yield
        finally:
            await listening.close()

    async def _on_put(self, delivery: Delivery[QueueItem]) -> None:
        line = self._lines.get(delivery.subject)
        if line is not None:
            line.came.set()

    async def put(
        self, workspace: WorkspaceId, name: str, partition: str, items: Sequence[QueueItem]
    ) -> None:
        """Append items in order. An item whose id was put a moment ago is not put again.

        Raises: UnavailableError; those before the one that failed are in the queue then.
        """
        at = _at(workspace, name, partition)
        for item in items:
            await self._bus.append(at, item, message_id=f"{at.subject} {item.item_id}")

    async def take(
        self, workspace: WorkspaceId, name: str, partition: str, count: int, wait_s: float
    ) -> list[QueueItem]:
        """Take the oldest items, at most `count`; wait for the first one. [] where none came."""
        at = _at(workspace, name, partition)
        until = self._clock.now() + wait_s
        with self._line(at.subject) as line:
            while True:
                line.came.clear()
                async with line.taking:
                    taken = await self._take_now(at, count)
                left_s = until - self._clock.now()
                if taken or left_s <= 0:
                    return taken
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, LOOK_S)):
                        await line.came.wait()

    async def first(self, workspace: WorkspaceId, name: str, partition: str) -> QueueItem | None:
        """Return the oldest item and leave it there."""
        found = await self._bus.first(_at(workspace, name, partition))
        return None if found is None else found.message

    async def clear(self, workspace: WorkspaceId, name: str, partition: str | None) -> int:
        """Remove what is there now, of one partition or all; return how many items that were."""
        partitions = await self.lengths(workspace, name)
        removed = 0
        for one, length in partitions.items():
            if partition is None or one == partition:
                at = _at(workspace, name, one)
                removed += len(await self._take_now(at, min(length, CLEAR_MAX)))
        return removed

    async def lengths(self, workspace: WorkspaceId, name: str) -> Mapping[str, int]:
        """Return how many items each partition holds; empty ones are not named."""
        counts = await self._bus.counts(QUEUE_ITEM.pattern(workspace=workspace, queue=name))
        return {_partition(subject): count for subject, count in sorted(counts.items())}

    async def names(self, workspace: WorkspaceId) -> Mapping[str, int]:
        """Return the queues that hold something, and how many items."""
        found: dict[str, int] = {}
        counts = await self._bus.counts(QUEUE_ITEM.pattern(workspace=workspace))
        for subject, count in sorted(counts.items()):
            name = QUEUE_ITEM.parse(subject)["queue"]
            found[name] = found.get(name, 0) + count
        return found

    async def _take_now(self, at: Address[QueueItem], count: int) -> list[QueueItem]:
        taken: list[QueueItem] = []
        while len(taken) < count:
            found = await self._bus.first(at)
            if found is None or found.message is None:
                break
            if await self._bus.take(at, found.sequence):
                taken.append(found.message)
        return taken

    @contextlib.contextmanager
    def _line(self, subject: str) -> Iterator[_Line]:
        line = self._lines.setdefault(subject, _Line())
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            if not line.users:
                self._lines.pop(subject, None)


def _at(workspace: WorkspaceId, name: str, partition: str) -> Address[QueueItem]:
    return QUEUE_ITEM.at(workspace=workspace, queue=name, partition=f"p-{partition}")


def _partition(subject: str) -> str:
    return QUEUE_ITEM.parse(subject)["partition"].removeprefix("p-")
