"""Events that users' programs publish straight to the broker: taken in, checked, stored as events.

The broker has acknowledged them once they were on disk. Here they are strangers' bytes with strangers'
headers: read by the strict parser, never by anything else. What is no event is not dropped in silence: it
becomes an event of the platform, with the reason. A message leaves its stream only when the event is
stored; until then it stays, and so does everything behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog
from glowplug_contracts.cloudevents import check_unreserved, event_key, read_events
from glowplug_contracts.errors import ConflictError, InvalidRequestError, PlatformError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.event import CloudEvent, DataForm, RawEvent, StoredEvent
from glowplug_contracts.subjects import EVENT, INGRESS, shard_of
from glowplug_contracts.triggered import REFUSED_SOURCE, REFUSED_TYPE
from glowplug_runtime.bus import Bus, Delivery
from glowplug_runtime.clock import Clock
from glowplug_runtime.lease import Lease

log = structlog.get_logger()

STALLED_S = 0.5
TAKE_AGAIN_S = 0.2
SHOWN_CHARS_MAX = 1_000
# In the NATS binding no content type means the JSON format: older clients knew no headers.
STRUCTURED_HEADERS = (("content-type", "application/cloudevents+json"),)


class Ingress:
    """The one owner of the ingress stream, by lease."""

    def __init__(self, bus: Bus, clock: Clock, shards: int) -> None:
        self._bus = bus
        self._clock = clock
        self._shards = shards
        self._closed = True

    @asynccontextmanager
    async def own(self, lease: Lease) -> AsyncIterator[None]:
        """Take in until the context is left."""
        self._closed = False
        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(self._take(lease.generation), name="take in events")
            try:
                yield
            finally:
                self._closed = True
                taking.cancel()

    async def _take(self, generation: int) -> None:
        while True:
            try:
                taking = await self._bus.take_work(
                    INGRESS.pattern(), self.on_raw_event, generation=generation
                )
            except PlatformError as error:
                log.warning("ingress.delayed", error=str(error))
                await asyncio.sleep(TAKE_AGAIN_S)
                continue
            try:
                await asyncio.Event().wait()  # until it is cancelled
            finally:
                await taking.close()

    async def on_raw_event(self, delivery: Delivery[RawEvent]) -> None:
        """Store what a program published, or why it is no event; then let the message go."""
        if delivery.message is None or delivery.ack is None:
            return
        workspace = WorkspaceId(delivery.fields["workspace"])
        try:
            events = _read(delivery.headers, delivery.message.data)
        except InvalidRequestError as error:
            log.warning("ingress.refused", workspace=workspace, error=str(error))
            events = (_refused(delivery, str(error)),)
        for event in events:
            await self._store(workspace, event)
            if self._closed:
                return  # the next owner takes it again; what is stored is the same event then
        await delivery.ack()

    async def _store(self, workspace: WorkspaceId, event: CloudEvent) -> None:
        stored = StoredEvent(
            event_id=event_key(workspace, event.source, event.id),
            workspace=workspace,
            event=event,
            accepted_at=self._clock.unix(),
        )
        at = EVENT.at(
            shard=shard_of(workspace, self._shards), workspace=workspace, event_id=stored.event_id
        )
        while not self._closed:
            try:
                await self._bus.append(at, stored, expect_last=0)
            except ConflictError:
                return  # the same event again
            except PlatformError as error:
                log.warning("ingress.stalled", error=str(error))
                await asyncio.sleep(STALLED_S)
            else:
                return


def _read(headers: Mapping[str, str], data: bytes) -> tuple[CloudEvent, ...]:
    given = list(headers.items())
    names = {name.lower() for name, _ in given}
    if not any(name == "content-type" or name.startswith("ce-") for name in names):
        given.extend(STRUCTURED_HEADERS)
    events = read_events(given, data)
    for event in events:
        check_unreserved(event)
    return events


def _refused(delivery: Delivery[RawEvent], why: str) -> CloudEvent:
    data = delivery.message.data if delivery.message is not None else b""
    shown = {
        "reason": why,
        "bytes": len(data),
        "headers": {
            _clean(name): _clean(text) for name, text in list(delivery.headers.items())[:64]
        },
    }
    return CloudEvent(
        id=str(delivery.sequence),
        source=REFUSED_SOURCE,
        type=REFUSED_TYPE,
        datacontenttype="application/json",
        form=DataForm.JSON,
        data=msgspec.json.encode(shown),
    )


def _clean(text: str) -> str:
    return text[:SHOWN_CHARS_MAX].encode("utf-8", "replace").decode()
