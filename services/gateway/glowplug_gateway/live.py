"""What is going on now: workers with their containers, and targets. For showing, never for deciding.

Everything here is hearsay of the last seconds: beats that stop are forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import ContainerView, WorkerBeat
from glowplug_contracts.subjects import SCALE, WORKER_BEAT
from glowplug_runtime.bus import Delivery

from glowplug_gateway.ports import Platform

ALIVE_S = 3.5


class ContainerShown(msgspec.Struct, frozen=True, kw_only=True):
    """A container, for lists."""

    container_id: ContainerId
    deployment_id: DeploymentId
    worker_id: WorkerId
    workspace: str
    kind: str
    state: str
    slots: int
    in_flight: int
    gpu_ids: tuple[str, ...]
    name: str
    gpu_bytes: int = 0
    gpu_busy: float = 0.0


class FailingShown(msgspec.Struct, frozen=True, kw_only=True):
    """That a deployment's containers fail one after the other: `until` a Unix time no other is started."""

    why: str
    in_a_row: int
    until: float


class Live:
    """See the module."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._beats: dict[WorkerId, tuple[float, WorkerBeat]] = {}
        self._targets: dict[DeploymentId, ScaleDecided] = {}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear beats and targets while the context is open."""
        bus = self._platform.bus
        subscriptions = [
            await bus.listen(WORKER_BEAT.pattern(), self.on_worker_beat),
            await bus.follow(SCALE.pattern(), self.on_scale_decided, start="last_per_subject"),
        ]
        try:
            yield
        finally:
            for subscription in subscriptions:
                await subscription.close()

    async def on_worker_beat(self, delivery: Delivery[WorkerBeat]) -> None:
        """A worker says everything about itself."""
        if delivery.message is not None:
            self._beats[delivery.message.worker_id] = (
                self._platform.clock.now(),
                delivery.message,
            )

    async def on_scale_decided(self, delivery: Delivery[ScaleDecided]) -> None:
        """A deployment's target changed."""
        if delivery.message is not None:
            self._targets[delivery.message.deployment_id] = delivery.message

    def workers(self) -> list[WorkerBeat]:
        """Return the last beat of every worker that lives."""
        now = self._platform.clock.now()
        self._beats = {k: v for k, v in self._beats.items() if now - v[0] <= ALIVE_S}
        return [beat for _, (_, beat) in sorted(self._beats.items())]

    def containers(self, workspace: str) -> list[ContainerShown]:
        """Return the workspace's live containers."""
        return [
            _shown(worker.worker_id, container)
            for worker in self.workers()
            for container in worker.containers
            if container.workspace == workspace
        ]

    def ways_to_start(self, deployment_id: DeploymentId) -> dict[WorkerId, str]:
        """Return how workers start a deployment's containers, where they know: forked, or why not."""
        found: dict[WorkerId, str] = {}
        for worker in self.workers():
            if deployment_id in worker.templates:
                found[worker.worker_id] = "forked from a template"
            elif deployment_id in worker.plain_starts:
                found[worker.worker_id] = f"plain: {worker.plain_starts[deployment_id]}"
        return found

    def target(self, deployment_id: DeploymentId) -> int:
        """Return how many containers the autoscaler wants."""
        decided = self._targets.get(deployment_id)
        return decided.target if decided else 0

    def why(self, deployment_id: DeploymentId) -> str:
        """Return why it wants so many; "crashed" and "start_failed" hold starts back for a while."""
        decided = self._targets.get(deployment_id)
        return decided.reason if decided else ""

    def failing(self, deployment_id: DeploymentId) -> FailingShown | None:
        """Return how its containers fail; None for one whose containers do well."""
        decided = self._targets.get(deployment_id)
        if decided is None or decided.failing is None:
            return None
        said = decided.failing
        return FailingShown(why=said.why, in_a_row=said.in_a_row, until=decided.at + said.held_s)


def _shown(worker_id: WorkerId, view: ContainerView) -> ContainerShown:
    return ContainerShown(
        container_id=view.container_id,
        deployment_id=view.deployment_id,
        worker_id=worker_id,
        workspace=view.workspace,
        kind=view.kind.value,
        state=view.state.value,
        slots=view.slots,
        in_flight=len(view.in_flight),
        gpu_ids=view.gpu_ids,
        name=view.name,
        gpu_bytes=view.gpu_bytes,
        gpu_busy=view.gpu_busy,
    )
