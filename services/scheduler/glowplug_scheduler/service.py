"""The scheduler service: makes the topology, contends for shards and placement, wires the shells.

Several replicas may run; each shard and placement has one owner at a time, by lease. SIGTERM leaves
the contexts, which releases the leases, so that another replica goes on within a quarter of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
from glowplug_contracts.errors import PlatformError, TransientError
from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.event import RouterPosition
from glowplug_contracts.streams import EVENTS, LOGS, PLATFORM, ROUTERS
from glowplug_runtime.lease import Lease
from glowplug_runtime.service import Shell, spawn
from glowplug_runtime.topology import PLATFORM_KEY, ensure_topology

from glowplug_scheduler.dispatch import Dispatcher
from glowplug_scheduler.dispatching import ShardOwner
from glowplug_scheduler.event_room import trim_before
from glowplug_scheduler.hearing import Hearing
from glowplug_scheduler.ingress import Ingress
from glowplug_scheduler.placing import PlacementShell
from glowplug_scheduler.records import BusRecords
from glowplug_scheduler.routing import EventRouting
from glowplug_scheduler.scheduling import ScheduleOwner
from glowplug_scheduler.settings import SchedulerSettings
from glowplug_scheduler.workers import BusWorkers

log = structlog.get_logger()

PLACEMENT_TICK_S = 0.2
WATCH_BROKER_S = 0.2
WISHES_S = 10.0
TRIM_S = 5.0
TOPOLOGY_S = 1.0
TOPOLOGY_AGAIN_S = 0.1

IN_MEMORY = "in memory: accepted work, deployments and results are lost when the broker ends"

OnHeld = Callable[[Lease], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def open_service(shell: Shell[SchedulerSettings]) -> AsyncIterator[None]:
    """Serve as long as the context is entered."""
    await make_topology(shell)
    if shell.settings.durability == "memory":
        shell.ready_note(durability=IN_MEMORY)
    scheduler = Scheduler(shell)
    async with scheduler.hearing.open(), scheduler.placement.open():
        shell.every(TOPOLOGY_S, scheduler.keep_topology, "keep topology")
        shell.every(WATCH_BROKER_S, scheduler.hearing.watch_broker, "watch broker")
        shell.every(TRIM_S, scheduler.make_room_for_events, "make room for events")
        shell.every(WISHES_S, scheduler.placement.read_wishes, "read wishes")
        placing = shell.tasks.create_task(scheduler.keep_placing(), name="keep placing")
        shell.hold("placement", scheduler.placement.lead)
        shell.hold("ingress", Ingress(shell.bus, shell.clock, shell.shards).own)
        for shard in range(shell.shards):
            shell.hold(f"shard-{shard}", scheduler.own(shard))
        try:
            yield
        finally:
            placing.cancel()


async def make_topology(shell: Shell[SchedulerSettings]) -> None:
    """Make streams and buckets exist.

    No lease guards it: leases live in a bucket made here, and two replicas that make the same thing
    do no harm.

    Raises: ContractError if the broker's platform is not ours to serve.
    """
    while True:
        try:
            await _adopt_shards(shell)
            await ensure(shell)
        except TransientError as error:
            log.warning("topology.delayed", error=str(error))
            await asyncio.sleep(TOPOLOGY_AGAIN_S)
        else:
            return


async def ensure(shell: Shell[SchedulerSettings]) -> None:
    """Make the broker match once."""
    settings = shell.settings
    await ensure_topology(
        shell.bus,
        shards=shell.shards,
        replicas=settings.replicas,
        durability=settings.durability,
        ages={LOGS.name: settings.logs_kept_s},
    )


async def _adopt_shards(shell: Shell[SchedulerSettings]) -> None:
    """Without a setting, go on with as many shards as the platform was made with."""
    if shell.settings.shards:
        return
    try:
        found = await shell.bus.bucket(PLATFORM).get(PLATFORM_KEY)
    except PlatformError:
        return  # no such bucket yet: a new platform
    if found is not None and found.value is not None:
        shell.shards = found.value.shards


class Scheduler:
    """The process's parts, wired."""

    def __init__(self, shell: Shell[SchedulerSettings]) -> None:
        self._shell = shell
        self.owners: dict[int, ShardOwner] = {}
        self._workers = BusWorkers(shell.bus)
        self._records = BusRecords(shell.bus, shell.clock)
        self.hearing = Hearing(shell.bus, self._workers, self._spawn)
        self.placement = PlacementShell(
            shell.bus,
            shell.clock,
            self.hearing,
            self._workers,
            self.loads,
            self._spawn,
            remembers=shell.settings.durability == "synced",
        )

    def own(self, shard: int) -> OnHeld:
        """Return what to do while a shard's lease is held."""

        @asynccontextmanager
        async def owned(lease: Lease) -> AsyncIterator[None]:
            shell = self._shell
            machine = Dispatcher(shard, shell.shards, cache_bytes_max=shell.settings.cache_bytes)
            owner = ShardOwner(
                shell.bus,
                shell.clock,
                self.hearing,
                self._workers,
                self._records,
                machine,
                self._spawn,
                shell.instance,
            )
            self.owners[shard] = owner
            schedules = ScheduleOwner(
                shell.bus,
                shell.clock,
                shard,
                shell.shards,
                late_s=shell.settings.schedule_late_s,
            )
            try:
                routing = EventRouting(shell.bus, shell.clock, shard, shell.shards)
                async with owner.open(lease.generation), routing.open(), schedules.open():
                    yield
            finally:
                del self.owners[shard]

        return owned

    def loads(self) -> Mapping[ContainerId, int]:
        """Return what runs in each container that a dispatcher of this process knows."""
        return {c: n for owner in self.owners.values() for c, n in owner.machine.loads().items()}

    async def keep_placing(self) -> None:
        """Let placement see time pass; its bugs end the process, loudly."""
        while True:
            await self.placement.tick()
            await asyncio.sleep(PLACEMENT_TICK_S)

    async def keep_topology(self) -> None:
        """A broker that restarts has forgotten its memory streams."""
        shell = self._shell
        if shell.bus.connected:
            await ensure(shell)

    async def make_room_for_events(self) -> None:
        """Let the oldest events go before there is no room for new ones; every replica may do it."""
        shell = self._shell
        if not shell.bus.connected:
            return
        info = await shell.bus.stream_info(EVENTS)
        if not trim_before(info, [RouterPosition(oldest=info["last_sequence"] + 1)]):
            return  # there is room: nobody needs to be asked
        routers = shell.bus.bucket(ROUTERS)
        found = [await routers.get(f"shard-{shard}") for shard in range(shell.shards)]
        before = trim_before(info, [one.value if one is not None else None for one in found])
        if before:
            await shell.bus.purge_before(EVENTS, before)
            log.warning("events.trimmed", before=before, bytes=info["bytes"])
        else:
            log.warning("events.full", bytes=info["bytes"], max_bytes=info["max_bytes"])

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        spawn(self._shell, work, name)  # type: ignore[arg-type]
