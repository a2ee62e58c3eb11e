"""Durable work that need not wait: accepted and claimed in one write, and sent straight to a warm slot.

The record is stored as RUNNING in a container that its worker has told of room in, and sent there once that is
on disk. So one sync and four wakings less than by way of the dispatcher, which hears of it in the records'
stream. The worker remains the judge: what it refuses surely never began, and is put back as it was accepted.
Whatever else goes wrong, a link that breaks or this process killed in between, leaves a record of a container
whose beats do not list it: the dispatcher takes it back as it takes back every attempt that was lost.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog
from glowplug_contracts.errors import ConflictError, NotFoundError, PlatformError
from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.invocation import is_terminal
from glowplug_contracts.messages.link import TaskEnded, TaskSent
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.subjects import shard_of

from glowplug_gateway.at_once import may_go_straight, unclaimed
from glowplug_gateway.calls import Calls
from glowplug_gateway.links import Lent, Links
from glowplug_gateway.ports import Platform
from glowplug_gateway.recordfeed import RecordFeed

log = structlog.get_logger()

# A dispatcher takes back what two beats do not list, 0.8 s after it was stored at the earliest: what took
# longer than this to be stored is not sent any more.
SEND_WITHIN_S: Final = 0.4
PUT_BACK_TRIES_MAX: Final = 20
PUT_BACK_PAUSE_S: Final = 0.1


class Store(Protocol):
    """The records, as this module changes them."""

    async def read(
        self, workspace: WorkspaceId, invocation_id: str
    ) -> tuple[InvocationRecord, int]:
        """Return a record and its sequence. Raises: NotFoundError."""

    async def change(self, record: InvocationRecord, sequence: int) -> None:
        """Write a record whose last word was read at `sequence`. Raises: ConflictError."""


class Straight:
    """See the module."""

    def __init__(
        self, platform: Platform, links: Links, calls: Calls, feed: RecordFeed, store: Store
    ) -> None:
        self._platform = platform
        self._links = links
        self._calls = calls
        self._feed = feed
        self._store = store
        links.listen_for_tasks(self)

    def lend(self, record: InvocationRecord) -> Lent | None:
        """Return a slot for new work that need not wait, or None. It must be sent to, or taken back."""
        deployment_id = record.deployment_id
        if not may_go_straight(record) or self._feed.line.waits(deployment_id):
            return None
        return None if self._calls.waits(deployment_id) else self._links.lend(deployment_id)

    def take_back(self, lent: Lent) -> None:
        """Nothing was sent."""
        self._links.take_back(lent)

    async def send(
        self, lent: Lent, record: InvocationRecord, sequence: int, began_at: float
    ) -> None:
        """Send what was stored at `sequence`, since `began_at`, to its slot; or put it back."""
        if self._platform.clock.now() - began_at > SEND_WITHIN_S:
            self._links.take_back(lent)
            why = "stored late"
        else:
            frame = TaskSent(
                container_id=lent.slot.container_id,
                shard=shard_of(record.workspace, self._platform.shards),
                sequence=sequence,
                record=record,
            )
            self._feed.sending(record.invocation_id)
            if await self._links.send_task(lent, frame):
                return
            why = "link ended"
        self._put_back_soon(record.workspace, record.invocation_id, sequence, why)

    # -- what links say -------------------------------------------------------------------------

    def task_refused(
        self, workspace: WorkspaceId, invocation_id: InvocationId, sequence: int, reason: str
    ) -> None:
        """A worker did not take it."""
        self._put_back_soon(workspace, invocation_id, sequence, reason)

    def task_ended(self, ended: TaskEnded) -> None:
        """What it became is stored: whoever waits need not wait for the feed."""
        record = ended.record
        if record is not None and is_terminal(record.state):
            self._feed.told_end(record, ended.sequence)

    # -- putting back ---------------------------------------------------------------------------

    def _put_back_soon(
        self, workspace: WorkspaceId, invocation_id: InvocationId, sequence: int, why: str
    ) -> None:
        log.info("task.put_back", invocation_id=invocation_id, why=why)
        self._platform.spawn(self._put_back(workspace, invocation_id, sequence), "put back")

    async def _put_back(
        self, workspace: WorkspaceId, invocation_id: InvocationId, sequence: int
    ) -> None:
        """Let the dispatcher hand it, as if it had never been claimed; unless somebody has changed it."""
        for _ in range(PUT_BACK_TRIES_MAX):
            try:
                record, found = await self._store.read(workspace, invocation_id)
                if found == sequence:
                    self._feed.line.join(unclaimed(record))
                    await self._store.change(unclaimed(record), sequence)
            except (ConflictError, NotFoundError):
                return
            except PlatformError:  # beyond these tries the dispatcher finds it
                await asyncio.sleep(PUT_BACK_PAUSE_S)
            else:
                return
