"""What all machines of one process hear of workers: one subscription each, whoever listens.

Beats and container events are decoded once and passed to every machine in turn. Questions to silent
workers are asked once, however many machines wonder.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from glowplug_contracts.ids import DeploymentId, WorkerId
from glowplug_contracts.messages.container import ContainerChanged
from glowplug_contracts.messages.deployment import Deployment, DeploymentState
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import DEPLOYMENTS
from glowplug_contracts.subjects import CONTAINER, WORKER_BEAT
from glowplug_runtime.bus import Bus, Delivery, Entry

from glowplug_scheduler.dispatch_types import DeploymentMoved
from glowplug_scheduler.events import (
    BeatHeard,
    BrokerReached,
    ContainerMoved,
    WorkerAnswered,
    WorkerUnreachable,
)
from glowplug_scheduler.ports import Presence, Workers

Heard = BeatHeard | ContainerMoved | BrokerReached | WorkerAnswered | WorkerUnreachable
Spawn = Callable[[Awaitable[None], str], None]


class Listener(Protocol):
    """A machine's shell."""

    async def hear(self, event: Heard) -> None:
        """Step the machine and perform what it decides."""


class DeploymentListener(Protocol):
    """A dispatcher's shell."""

    async def hear_deployment(self, event: DeploymentMoved) -> None:
        """Step the machine and perform what it decides."""


class Hearing:
    """The process's ears."""

    def __init__(self, bus: Bus, workers: Workers, spawn: Spawn) -> None:
        self._bus = bus
        self._workers = workers
        self._spawn = spawn
        self._listeners: list[Listener] = []
        self._dispatchers: list[DeploymentListener] = []
        self._deleted: set[DeploymentId] = set()
        self._asking: set[WorkerId] = set()
        self._connected = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear until the context is left."""
        beats = await self._bus.listen(WORKER_BEAT.pattern(), self.on_worker_beat)
        changes = await self._bus.follow(
            CONTAINER.pattern(), self.on_container_changed, start="new"
        )
        deployments = await self._bus.bucket(DEPLOYMENTS).watch(self.on_deployment)
        try:
            yield
        finally:
            await deployments.close()
            await beats.close()
            await changes.close()

    def add(self, listener: Listener) -> None:
        """Pass everything on to this one, too."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Pass nothing on to it any more."""
        self._listeners.remove(listener)

    async def add_dispatcher(self, listener: DeploymentListener) -> None:
        """Tell this one which deployments are deleted, now and from now on."""
        self._dispatchers.append(listener)
        for deployment_id in list(self._deleted):
            await listener.hear_deployment(DeploymentMoved(deployment_id, deleted=True))

    def remove_dispatcher(self, listener: DeploymentListener) -> None:
        """Tell it nothing any more."""
        self._dispatchers.remove(listener)

    async def on_deployment(self, entry: Entry[Deployment]) -> None:
        """A deployment was written or removed; its key ends with its id."""
        deployment_id = DeploymentId(entry.key.rpartition(".")[2])
        deleted = entry.value is None or entry.value.state is DeploymentState.DELETED
        if deleted == (deployment_id in self._deleted):
            return
        (self._deleted.add if deleted else self._deleted.discard)(deployment_id)
        for listener in list(self._dispatchers):
            await listener.hear_deployment(DeploymentMoved(deployment_id, deleted))

    async def on_worker_beat(self, delivery: Delivery[WorkerBeat]) -> None:
        """A worker tells its truth."""
        if delivery.message is not None:
            await self._tell(BeatHeard(delivery.message))

    async def on_container_changed(self, delivery: Delivery[ContainerChanged]) -> None:
        """A container reached a state."""
        if delivery.message is not None:
            await self._tell(ContainerMoved(delivery.message))

    async def watch_broker(self) -> None:
        """Notice whether the broker is reachable; called a few times a second."""
        connected = self._bus.connected
        if connected != self._connected:
            self._connected = connected
            await self._tell(BrokerReached(connected))

    def ask(self, worker_id: WorkerId) -> None:
        """Ask a silent worker whether it lives."""
        if worker_id not in self._asking:
            self._asking.add(worker_id)
            self._spawn(self._ask(worker_id), "ask worker")

    async def _ask(self, worker_id: WorkerId) -> None:
        try:
            presence = await self._workers.ask(worker_id)
        finally:
            self._asking.discard(worker_id)
        if presence is Presence.ANSWERED:
            await self._tell(WorkerAnswered(worker_id))
        elif presence is Presence.UNREACHABLE:
            await self._tell(WorkerUnreachable(worker_id))

    async def _tell(self, event: Heard) -> None:
        for listener in list(self._listeners):
            await listener.hear(event)
