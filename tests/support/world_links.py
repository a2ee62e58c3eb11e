"""The simulated links between gateways and workers: reliable and in order until they break."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId
from glowplug_contracts.messages.container import ContainerState
from glowplug_worker.rooms import Told

if TYPE_CHECKING:
    from tests.support.world import Node, World
    from tests.support.world_nodes import Gateway
    from tests.support.world_worker import Container, Worker

DIAL_AGAIN_S = (0.05, 1.0)


class Link:
    """One connection; what is on its way when it breaks is lost."""

    _numbers = itertools.count(1)

    def __init__(self, world: World, gateway: Gateway, worker: Worker) -> None:
        self.world, self.gateway, self.worker = world, gateway, worker
        self.lives = (gateway.life, worker.life)
        self.number = next(self._numbers)
        self.instance = gateway.instance
        self.open = True
        self.told = Told()
        self.calls: dict[InvocationId, int] = {}
        self.tasks: dict[InvocationId, int] = {}
        self._last = {"gateway": 0.0, "worker": 0.0}
        every_s = world.illness.death_every_s
        if every_s:
            world.later(world.rng.uniform(0.1, every_s), world.broker, self._break)

    def to_gateway(self, frame: Any) -> None:
        self._carry("gateway", self.gateway, lambda: self.gateway.on_frame(self, frame))

    def to_worker(self, frame: Any) -> None:
        self._carry("worker", self.worker, lambda: self.worker.on_frame(self, frame))

    def _carry(self, way: str, node: Node, arrive: Any) -> None:
        if not self.open:
            return
        if self.world.chance(self.world.illness.dropped / 5):
            self.world.counts["links broken"] += 1
            self.end()
            return
        at = max(self._last[way], self.world.now + self.world.latency())
        self._last[way] = at
        self.world.later(at - self.world.now, node, self._arrive, arrive)

    def _arrive(self, arrive: Any) -> None:
        if self.open:
            arrive()

    def _break(self) -> None:
        if self.world.illness.death_every_s:  # not healed meanwhile
            self.world.counts["links broken"] += self.open
            self.end()

    def end(self) -> None:
        """Break. Each side notices in its own time; whoever is dead does not."""
        if not self.open:
            return
        self.open = False
        self.world.later(self.world.latency(), self.gateway, self._gateway_notices)
        self.world.later(self.world.latency(), self.worker, self._worker_notices)

    def _gateway_notices(self) -> None:
        if self.gateway.life == self.lives[0]:
            self.gateway.on_link_ended(self)

    def _worker_notices(self) -> None:
        if self.worker.life == self.lives[1]:
            self.worker.on_link_ended(self)


class Room:
    """A simulated container as `Told` sees it."""

    def __init__(self, container: Container) -> None:
        self._container = container

    @property
    def container_id(self) -> ContainerId:
        return self._container.name

    @property
    def deployment_id(self) -> DeploymentId:
        return self._container.bind.spec.deployment_id

    @property
    def slots(self) -> Any:
        return self

    @property
    def draining(self) -> bool:
        states = {ContainerState.BOUND, ContainerState.STARTING, ContainerState.READY}
        return bool(self._container.stop_reason) or self._container.state not in states

    @property
    def free(self) -> int:
        if self.draining or self._container.state is not ContainerState.READY:
            return 0
        return self._container.slots - len(self._container.flights)
