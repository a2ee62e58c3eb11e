"""Events: store what was accepted, read it back, and deliver it again.

An event is accepted when it stands in the stream, on disk; the router in the scheduler service takes it
from there. Its subject follows from workspace, source and id, so the same pair again is the same event,
for as long as the stream keeps it. Replays are made here, as durable invocations like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from glowplug_contracts.cloudevents import event_key
from glowplug_contracts.errors import (
    ConflictError,
    NotFoundError,
    OverloadedError,
)
from glowplug_contracts.ids import EventId, WorkspaceId, check_id
from glowplug_contracts.messages.deployment import Deployment, FunctionKind
from glowplug_contracts.messages.event import CloudEvent, StoredEvent
from glowplug_contracts.messages.record import record_headers
from glowplug_contracts.streams import EVENTS
from glowplug_contracts.subjects import EVENT, RECORD, Address, shard_of
from glowplug_contracts.triggered import deployment_event, replayed_id, triggered_record
from glowplug_runtime.bus import Delivery

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.ports import Platform

# Appends on their way at once, for one batch.
STORING_MAX: Final = 64
# Readers of the stream that one gateway has open at once; each is a consumer at the broker.
READERS_MAX: Final = 64
UNREAD_MAX: Final = 1_000
# How far back the newest events are looked for.
LOOK_BACK: Final = 10_000
REPLAY_MAX: Final = 10_000


class Kept(msgspec.Struct, frozen=True):
    """An event of the stream, and its place there."""

    sequence: int
    stored: StoredEvent


class Replayed(msgspec.Struct, frozen=True):
    """One delivery of a replay; `again`: the same replay had made it before."""

    event: StoredEvent
    trigger: str
    task_id: str
    again: bool


class Events:
    """See the module."""

    def __init__(self, platform: Platform, catalog: Catalog) -> None:
        self._platform = platform
        self._catalog = catalog
        self._readers: set[asyncio.Queue[Kept | None]] = set()
        self.ended = False

    # -- storing --------------------------------------------------------------------------------

    async def accept(
        self, workspace: WorkspaceId, events: Sequence[CloudEvent], trace: str = ""
    ) -> list[EventId]:
        """Store events; return their ids once all of them are on disk.

        Events that were stored before are left as they are. Raises: UnavailableError, OverloadedError;
        some may be stored then, and sending all of them again does no harm.
        """
        places = asyncio.Semaphore(STORING_MAX)

        async def one(event: CloudEvent) -> EventId:
            async with places:
                return await store_event(self._platform, workspace, event, trace)

        found = await asyncio.gather(*map(one, events), return_exceptions=True)
        ids = [each for each in found if isinstance(each, str)]
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return ids

    # -- reading --------------------------------------------------------------------------------

    async def show(self, workspace: WorkspaceId, event_id: str) -> Kept:
        """Return a stored event. Raises: NotFoundError, InvalidRequestError (no such id)."""
        known = EventId(check_id("event", event_id))
        found = await self._platform.bus.last(address(self._platform, workspace, known))
        if found is None or found.message is None:
            raise NotFoundError("event.not_found", f"there is no event {known} (any more)")
        return Kept(found.sequence, found.message)

    async def ends(self) -> tuple[int, int]:
        """Return the first and the last sequence of the stream (1, 0 while it is empty)."""
        info = await self._platform.bus.stream_info(EVENTS)
        return info["first_sequence"], info["last_sequence"]

    async def place_of(self, unix: float) -> int:
        """Return the sequence of about the first event that was accepted at a time or later."""
        first, last = await self.ends()
        while first <= last:
            middle = (first + last) // 2
            found = await self._platform.bus.read(EVENT, middle)
            if found is None or found.message is None or found.message.accepted_at < unix:
                first = middle + 1
            else:
                last = middle - 1
        return first

    @contextlib.asynccontextmanager
    async def open_reader(
        self, workspace: WorkspaceId, start: int
    ) -> AsyncIterator[asyncio.Queue[Kept | None]]:
        """Yield a queue that fills with a workspace's events, from `start` on, as they are stored.

        None stands in it once, behind all that were stored when it began. Raises: OverloadedError.
        """
        if len(self._readers) >= READERS_MAX:
            raise OverloadedError(
                "scheduler.overloaded",
                f"{READERS_MAX} readers of events are open here already",
                retry_after_s=1,
            )
        unread: asyncio.Queue[Kept | None] = asyncio.Queue(UNREAD_MAX)

        async def on_event(delivery: Delivery[StoredEvent]) -> None:
            if delivery.message is not None:
                await unread.put(Kept(delivery.sequence, delivery.message))

        async def tell_caught_up() -> None:
            await following.caught_up()
            await unread.put(None)

        self._readers.add(unread)
        try:
            shard = shard_of(workspace, self._platform.shards)
            following = await self._platform.bus.follow(
                EVENT.pattern(shard=shard, workspace=workspace), on_event, start=max(1, start)
            )
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(tell_caught_up(), name="events caught up")
                try:
                    yield unread
                finally:
                    telling.cancel()
                    await following.close()
        finally:
            self._readers.discard(unread)

    def end_readers(self) -> None:
        """Have whoever follows events come to an end: the gateway stops."""
        self.ended = True
        for unread in self._readers:
            with contextlib.suppress(asyncio.QueueFull):
                unread.put_nowait(None)

    # -- delivering again -----------------------------------------------------------------------

    def triggers(self, workspace: WorkspaceId) -> list[str]:
        """Return the names of a workspace's event triggers."""
        return sorted(
            index.name
            for index in self._catalog.functions()
            if index.workspace == workspace and index.kind is FunctionKind.ON_EVENT
        )

    async def trigger(self, workspace: WorkspaceId, name: str) -> Deployment:
        """Return the live version of a trigger. Raises: NotFoundError."""
        deployment = await self._catalog.by_name(workspace, name)
        if deployment.spec.trigger is None:
            raise NotFoundError(
                "deployment.not_found",
                f"{name} is a {deployment.spec.kind.value}, no event trigger",
            )
        return deployment

    async def replay(self, deployment: Deployment, stored: StoredEvent, replay: str) -> Replayed:
        """Deliver one event again, by itself; the same replay does so once."""
        spec = deployment.spec
        made = replayed_id(deployment.workspace, spec.name, stored.event_id, replay)
        record = triggered_record(deployment, made, (stored,), self._platform.clock.unix())
        at = RECORD.at(
            shard=shard_of(record.workspace, self._platform.shards),
            workspace=record.workspace,
            invocation_id=made,
        )
        try:
            await self._platform.bus.append(
                at, record, expect_last=0, headers=record_headers(record)
            )
        except ConflictError:
            return Replayed(stored, spec.name, made, again=True)
        return Replayed(stored, spec.name, made, again=False)


async def store_event(
    platform: Platform, workspace: WorkspaceId, event: CloudEvent, trace: str = ""
) -> EventId:
    """Store an event, unless it is there already. Raises: UnavailableError, OverloadedError."""
    stored = StoredEvent(
        event_id=event_key(workspace, event.source, event.id),
        workspace=workspace,
        event=event,
        accepted_at=platform.clock.unix(),
        trace=trace,
    )
    with contextlib.suppress(ConflictError):
        await platform.bus.append(
            address(platform, workspace, stored.event_id), stored, expect_last=0
        )
    return stored.event_id


async def tell_deployment(platform: Platform, deployment: Deployment, *, deleted: bool) -> None:
    """Let the router know that a name with a trigger leads elsewhere: it reads the name anew there.

    Written after the name's index and before the answer, so events after the answer find the trigger.
    """
    event = deployment_event(deployment.spec.name, deployment.deployment_id, deleted=deleted)
    await store_event(platform, deployment.workspace, event)


def address(platform: Platform, workspace: WorkspaceId, event_id: EventId) -> Address[StoredEvent]:
    """Return where an event stands."""
    shard = shard_of(workspace, platform.shards)
    return EVENT.at(shard=shard, workspace=workspace, event_id=event_id)
