"""The shell around the machine: what it hears becomes events, what it decides is written.

Several replicas run; the one that holds the lease `autoscaler` decides. Taking the lease makes a fresh
machine and rebuilds what it must know: deployments from their bucket, targets from the last decision
per deployment, backlogs from the dispatchers, who repeat them each second. Nothing is decided before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog
from glowplug_contracts.errors import TransientError
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.container import ContainerChanged
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.dispatch import BacklogChanged
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import DEPLOYMENTS, SCALE_DECISIONS
from glowplug_contracts.subjects import BACKLOG, CONTAINER, SCALE, WORKER_BEAT
from glowplug_runtime.bus import Bus, Delivery, Entry
from glowplug_runtime.clock import Clock
from glowplug_runtime.lease import Lease
from glowplug_runtime.service import Shell

from glowplug_autoscaler.decide import Autoscaler, CaughtUp, DeploymentGone, Event, Ticked
from glowplug_autoscaler.ports import Targets
from glowplug_autoscaler.settings import AutoscalerSettings
from glowplug_autoscaler.targets import StreamTargets

log = structlog.get_logger()

LEASE = "autoscaler"
TICK_S = 0.2
# A watch is a hint; the bucket is read as a whole so often.
RECONCILE_S = 30.0
CATCH_UP_S_MAX = 10.0
TAKE_OVER_AGAIN_S = 0.5
WRITE_AGAIN_S = 0.2
WRITES_AT_ONCE = 64


@asynccontextmanager
async def open_service(shell: Shell[AutoscalerSettings]) -> AsyncIterator[None]:
    """Contend for the lease as long as the service runs."""
    targets = StreamTargets(shell.bus, shell.clock)

    @asynccontextmanager
    async def lead(lease: Lease) -> AsyncIterator[None]:
        leader = Leader(shell.bus, shell.clock, targets, lease)
        async with leader.open():
            yield

    shell.hold(LEASE, lead)
    yield


class Leader:
    """One reign: a machine for one generation of the lease, and its ears and hands."""

    def __init__(self, bus: Bus, clock: Clock, targets: Targets, lease: Lease) -> None:
        self.machine = Autoscaler(lease.generation)
        self._bus = bus
        self._clock = clock
        self._targets = targets
        self._lease = lease
        self._unwritten: dict[DeploymentId, ScaleDecided] = {}
        self._to_write = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take over, then decide until the context is left."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            # In the background: the lease is only renewed once this context is entered.
            loops = [
                tasks.create_task(self.take_over(stack), name="take over"),
                tasks.create_task(self.keep_time(), name="keep time"),
                tasks.create_task(self.keep_deployments(), name="keep deployments"),
                tasks.create_task(self.keep_targets_written(), name="keep targets written"),
            ]
            yield
            for loop in loops:
                loop.cancel()

    async def take_over(self, stack: AsyncExitStack) -> None:
        """Hear all there is, then let the machine decide; tried until it works."""
        while not self.machine.caught_up:
            async with AsyncExitStack() as attempt:
                try:
                    async with asyncio.timeout(CATCH_UP_S_MAX):
                        await self._listen(attempt)
                        await self._read_targets(attempt)
                except (TransientError, TimeoutError) as error:
                    log.warning("takeover.failed", error=str(error))
                    await asyncio.sleep(TAKE_OVER_AGAIN_S)
                else:
                    stack.push_async_exit(attempt.pop_all())
                    self._step(CaughtUp())

    async def _listen(self, stack: AsyncExitStack) -> None:
        for subscription in (
            await self._bus.listen(BACKLOG.pattern(), self.on_backlog_changed),
            await self._bus.listen(WORKER_BEAT.pattern(), self.on_worker_beat),
            await self._bus.follow(CONTAINER.pattern(), self.on_container_changed, start="new"),
            await self._bus.bucket(DEPLOYMENTS).watch(self.on_deployment_entry),
        ):
            stack.push_async_callback(subscription.close)

    async def _read_targets(self, stack: AsyncExitStack) -> None:
        """Hear the last decision per deployment; go on hearing, as an old leader may speak late."""
        stored = await self._bus.stream_info(SCALE_DECISIONS)
        following = await self._bus.follow(
            SCALE.pattern(), self.on_scale_decided, start="last_per_subject"
        )
        stack.push_async_callback(following.close)
        if stored["messages"]:
            await following.caught_up()  # not by the last message seen: it may be unreadable

    async def on_backlog_changed(self, delivery: Delivery[BacklogChanged]) -> None:
        """A dispatcher says what waits."""
        self._hear(delivery.message)

    async def on_worker_beat(self, delivery: Delivery[WorkerBeat]) -> None:
        """A worker says what it holds."""
        self._hear(delivery.message)

    async def on_container_changed(self, delivery: Delivery[ContainerChanged]) -> None:
        """A container reached a state."""
        self._hear(delivery.message)

    async def on_scale_decided(self, delivery: Delivery[ScaleDecided]) -> None:
        """A decision, ours or that of an earlier leader."""
        self._hear(delivery.message)

    async def on_deployment_entry(self, entry: Entry[Deployment]) -> None:
        """A deployment was written or removed; the key ends with its id."""
        gone = DeploymentGone(DeploymentId(entry.key.rpartition(".")[2]))
        self._step(entry.value if entry.value is not None else gone)

    async def keep_time(self) -> None:
        """Let the machine see time pass."""
        while True:
            await asyncio.sleep(TICK_S)
            self._step(Ticked())

    async def keep_deployments(self) -> None:
        """Read the whole bucket now and then; repairs what a watch missed."""
        while True:
            await asyncio.sleep(RECONCILE_S)
            try:
                entries = await self._bus.bucket(DEPLOYMENTS).entries()
            except TransientError as error:
                log.warning("deployments.unread", error=str(error))
                continue
            stored = [entry.value for entry in entries if entry.value is not None]
            known = {d for d, e in self.machine.entries.items() if e.deployment is not None}
            for deployment in stored:
                self._step(deployment)
            for missing in known - {deployment.deployment_id for deployment in stored}:
                self._step(DeploymentGone(missing))

    async def keep_targets_written(self) -> None:
        """Write decisions, the latest of each deployment, until each is stored."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            due, self._unwritten = self._unwritten, {}
            decisions = list(due.values())
            for start in range(0, len(decisions), WRITES_AT_ONCE):
                some = decisions[start : start + WRITES_AT_ONCE]
                async with asyncio.TaskGroup() as writes:
                    for decision in some:
                        writes.create_task(self._write(decision), name="write target")
            if self._unwritten and not self._to_write.is_set():
                await asyncio.sleep(WRITE_AGAIN_S)
                self._to_write.set()

    def _hear(self, message: Event | None) -> None:
        if message is not None:
            self._step(message)

    def _step(self, event: Event) -> None:
        for decision in self.machine.step(event, self._clock.now()):
            log.info("scale.decided", **_fields(decision))
            self._unwritten[decision.deployment_id] = decision
            self._to_write.set()

    async def _write(self, decision: ScaleDecided) -> None:
        if not self._lease.held:
            return  # somebody else decides now; ours would only be read and ignored
        try:
            await self._targets.write(decision)
        except TransientError as error:
            log.warning("scale.unwritten", error=str(error), **_fields(decision))
            self._unwritten.setdefault(decision.deployment_id, decision)


def _fields(decision: ScaleDecided) -> dict[str, object]:
    """Return what a log line says of a decision."""
    fields: dict[str, object] = msgspec.structs.asdict(decision)
    return {name: fields[name] for name in ("deployment_id", "target", "previous", "reason")}
