"""The shell around one shard's event router: the stream becomes events, decisions become records.

Entered when the shard's lease is held. Everything it must know it reads: position and cuts from their
buckets, triggers from the names' index, events from the stream. An append that does not succeed is tried
until it does, and meanwhile no more events are read: the router stalls, it never skips. A write that
somebody else was faster with means that another owner goes on: it begins again from what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from glowplug_contracts.errors import ConflictError, PlatformError, TransientError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.event import RouterPosition, StoredEvent, TriggerCursor
from glowplug_contracts.messages.record import record_headers
from glowplug_contracts.streams import ROUTERS
from glowplug_contracts.subjects import EVENT, RECORD
from glowplug_contracts.triggered import DEPLOYMENTS_SOURCE, triggered_record
from glowplug_runtime.bus import Bus, Delivery
from glowplug_runtime.clock import Clock

from glowplug_scheduler.trigger_index import TriggerIndex, store
from glowplug_scheduler.triggers import (
    CursorWritten,
    Decision,
    Event,
    EventRead,
    Made,
    Make,
    ReportBadTrigger,
    Router,
    Tick,
    TriggerGone,
    TriggerLive,
    WriteCursor,
)

log = structlog.get_logger()

TICK_S = 0.05
POSITION_S = 0.25
# Triggers whose word in the stream never came (its gateway died) are found by looking.
LOOK_S = 10.0
AGAIN_S = 0.2
STALLED_S = 0.5


class EventRouting:
    """Routes one shard's events for one generation of its owner, over as many courses as it takes."""

    def __init__(self, bus: Bus, clock: Clock, shard: int, shards: int) -> None:
        self._bus = bus
        self._clock = clock
        self._shard = shard
        self._shards = shards

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Route until the context is left."""
        async with asyncio.TaskGroup() as tasks:
            routing = tasks.create_task(self._keep_routing(), name="route events")
            yield
            routing.cancel()

    async def _keep_routing(self) -> None:
        positions = self._bus.bucket(ROUTERS)
        while True:
            try:
                found = await positions.get(f"shard-{self._shard}")
                course = Course(
                    self._bus,
                    self._clock,
                    self._shard,
                    TriggerIndex(self._bus, self._shard, self._shards),
                    (found.value if found is not None else None) or RouterPosition(),
                    found.revision if found is not None else 0,
                )
                async with course.open():
                    await course.wrong.wait()
            except PlatformError as error:
                log.warning("routing.again", shard=self._shard, error=str(error))
            await asyncio.sleep(AGAIN_S)


class Course:
    """One run of the machine, from a stored position until something is wrong with what it believes."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        shard: int,
        index: TriggerIndex,
        position: RouterPosition,
        revision: int,
    ) -> None:
        self.machine = Router(position)
        self.wrong = asyncio.Event()
        self._bus = bus
        self._clock = clock
        self._shard = shard
        self._index = index
        self._positions = bus.bucket(ROUTERS)
        self._position = position
        self._revision = revision
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._closed = False
        self._tasks: asyncio.TaskGroup

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run until the context is left, then store how far it came."""
        for found in await self._index.begin(self._position):
            self._take_in(found)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            following = await self._bus.follow(
                EVENT.pattern(shard=self._shard), self.on_event, start=self.machine.first
            )
            loops = [
                tasks.create_task(self._keep(TICK_S, self._tick), name="router ticks"),
                tasks.create_task(self._keep(POSITION_S, self._store_position), name="position"),
                tasks.create_task(self._keep(LOOK_S, self._look), name="look for triggers"),
            ]
            log.info("routing.begun", shard=self._shard, first=self.machine.first)
            try:
                yield
            finally:
                self._closed = True
                self._changed.set()
                await following.close()
                for loop in loops:
                    loop.cancel()
                if not self.wrong.is_set():
                    with contextlib.suppress(PlatformError):  # the next owner goes on from the last
                        await self._store_position()

    # -- hearing --------------------------------------------------------------------------------

    async def on_event(self, delivery: Delivery[StoredEvent]) -> None:
        """Feed the machine one event of the stream, when it has room."""
        async with self._reading:  # after a reconnect two readers may be here
            try:
                await self._until(lambda: not self.machine.full)
                if delivery.message is None or delivery.sequence <= self.machine.read:
                    return
                stored = delivery.message
                if stored.event.source == DEPLOYMENTS_SOURCE:
                    await self._reload(stored.workspace, stored.event.subject)
                if not self._closed:
                    self._step(EventRead(stored, delivery.sequence, more=delivery.pending > 0))
            except Exception:  # an event that is not routed must not be passed over
                log.exception("routing.broken", shard=self._shard, sequence=delivery.sequence)
                self._closed = True
                self.wrong.set()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true() and not self._closed:
            self._changed.clear()
            await self._changed.wait()

    async def _keep(self, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                await action()
            except ConflictError as error:
                log.warning("routing.overtaken", shard=self._shard, error=str(error))
                self.wrong.set()
            except PlatformError as error:
                log.warning("routing.delayed", shard=self._shard, error=str(error))

    async def _tick(self) -> None:
        self._step(Tick())

    # -- triggers -------------------------------------------------------------------------------

    async def _look(self) -> None:
        async with self._reading:
            known = {key: self.machine.live(*key) for key in self.machine.names()}
            for workspace, name in await self._index.moved(known):
                await self._reload(workspace, name)

    async def _reload(self, workspace: WorkspaceId, name: str) -> None:
        """Learn what a name leads to now. Tried until it works: events wait."""
        while not self._closed:
            try:
                await self._learn(workspace, name)
            except TransientError as error:
                log.warning("routing.delayed", shard=self._shard, error=str(error))
                await asyncio.sleep(STALLED_S)
            else:
                return

    async def _learn(self, workspace: WorkspaceId, name: str) -> None:
        known, now = self.machine.live(workspace, name), await self._index.live(workspace, name)
        if known is not None and now is not None and known.deployment_id == now.deployment_id:
            return
        batches = _batch(now) > 0
        if known is not None and (_batch(known) > 0) != batches:
            # What was read goes the old way, all of it; then the new way begins at a stored cut.
            still_there = await self._index.active(known)
            self._step(TriggerGone(workspace, name, finish=still_there))
            await self._until(lambda: self.machine.idle)
        if now is None:
            still_there = known is not None and await self._index.active(known)
            self._step(TriggerGone(workspace, name, finish=still_there))
            return
        cursor = await self._index.cursor(now)
        if self._closed:
            return
        if known is None or (_batch(known) > 0) != batches:
            cursor = await self._index.restart(now, cursor, self.machine.reached, ended=not batches)
        self._take_in(TriggerLive(now, self.machine.reached, cursor or TriggerCursor()))

    def _take_in(self, live: TriggerLive) -> None:
        spec = live.deployment.spec
        log.info("trigger.live", name=spec.name, version=live.deployment.version, after=live.after)
        self._step(live)

    # -- doing ----------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        self._perform(self.machine.step(event, self._clock.now()))

    def _perform(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Make():
                    self._tasks.create_task(self._make(decision), name="make invocation")
                case WriteCursor():
                    self._tasks.create_task(self._write_cursor(decision), name="cut batch")
                case ReportBadTrigger(deployment, why):
                    log.error("trigger.bad", deployment_id=deployment.deployment_id, why=why)

    async def _make(self, make: Make) -> None:
        record = triggered_record(
            make.deployment, make.invocation_id, make.events, self._clock.unix()
        )
        at = RECORD.at(
            shard=self._shard, workspace=record.workspace, invocation_id=record.invocation_id
        )
        while not self._closed:
            try:
                await self._bus.append(at, record, expect_last=0, headers=record_headers(record))
            except ConflictError:
                pass  # it was made before: by us without an answer, or by the last owner
            except PlatformError as error:
                log.warning("routing.stalled", shard=self._shard, error=str(error))
                await asyncio.sleep(STALLED_S)
                continue
            self._step(Made(make.invocation_id))
            self._changed.set()
            return

    async def _write_cursor(self, write: WriteCursor) -> None:
        while not self._closed:
            try:
                await self._index.write_cursor(write.workspace, write.name, write.cursor)
            except ConflictError as error:
                log.warning("routing.overtaken", shard=self._shard, error=str(error))
                self._closed = True
                self.wrong.set()
                return
            except PlatformError as error:
                log.warning("routing.stalled", shard=self._shard, error=str(error))
                await asyncio.sleep(STALLED_S)
                continue
            self._step(CursorWritten(write.workspace, write.name, write.cursor))
            self._changed.set()
            return

    async def _store_position(self) -> None:
        position = self.machine.position()
        if position != self._position:
            key = f"shard-{self._shard}"
            self._revision = await store(self._positions, key, position, self._revision)
            self._position = position


def _batch(deployment: Deployment | None) -> int:
    trigger = deployment.spec.trigger if deployment is not None else None
    return trigger.batch if trigger is not None else 0
