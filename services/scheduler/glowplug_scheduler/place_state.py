"""What placement knows: wanted, observed, asked for. And its numbered invariants.

Desired: targets of deployments, and containers wanted by name. Observed: workers' beats and container
events. Asked: binds not yet answered. All of it can be learnt again from the bus.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId, derive_id
from glowplug_contracts.messages.container import (
    ContainerKind,
    ContainerSpec,
    ContainerState,
    ContainerWanted,
)
from glowplug_contracts.messages.deployment import Deployment, DeploymentState, Resources
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import WorkerBeat

from glowplug_scheduler.filters import Room
from glowplug_scheduler.liveness import Liveness
from glowplug_scheduler.queues import Remembered

NO_DEPLOYMENT = DeploymentId("-")
REMEMBERED = 16_384
# What a container has promised of a GPU that is its alone: more than any device holds.
WHOLE = 1 << 60


class Held(msgspec.Struct, eq=False, kw_only=True):
    """A container that takes room on a worker, from the asking to the end.

    Attributes:
        asked: its bind is not answered yet.
        seen: its worker has listed it.
        own: placed by this machine, in this generation.
        stopping: told to end; it no longer counts as running, but still takes room.
        absent: beats in a row, of its worker, that did not list it.
        since: when it was last surely there (answered or listed).
    """

    container_id: ContainerId
    deployment_id: DeploymentId
    worker_id: WorkerId
    kind: ContainerKind
    workspace: str
    resources: Resources
    gpu_ids: tuple[str, ...] = ()
    state: ContainerState = ContainerState.BOUND
    asked: bool = False
    seen: bool = False
    own: bool = False
    in_flight: int = 0
    idle_since: float = 0.0
    absent: int = 0
    since: float = 0.0
    stopping: bool = False
    stop_reason: str = ""
    stop_grace_s: float = 0.0
    stop_sent_at: float = 0.0
    trace: str = ""


class Parked(msgspec.Struct, eq=False, kw_only=True):
    """A container that nowhere fits: the id it will have, and what was published about it."""

    container_id: ContainerId
    since: float
    reasons: dict[str, str] | None = None
    published_at: float = float("-inf")


class Backoff(msgspec.Struct, eq=False):
    """Containers of a deployment failed at their start; no new one before `until`."""

    failures: int = 0
    until: float = float("-inf")


class Crash(msgspec.Struct, eq=False):
    """A container of a deployment crashed at `at`; no new one before `until`, 0 once that has passed."""

    at: float
    until: float = 0.0


class PlaceState:
    """The state of placement.

    Attributes:
        ended: containers that ended by their worker's word.
        mourned: containers of dead workers that were published as FAILED; one that turns up again
            is stopped.
        refusals: (deployment or container, worker) → until when not to ask again, and the reason.
        missing_since: when a deployment or wanted container was first found short.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.salt = b""
        self.listening_since: float | None = None
        self.settled = False
        self.liveness = Liveness()
        self.beats: dict[WorkerId, WorkerBeat] = {}
        self.deployments: dict[DeploymentId, Deployment] = {}
        self.targets: dict[DeploymentId, ScaleDecided] = {}
        self.wanted: dict[ContainerId, ContainerWanted] = {}
        self.finished: set[ContainerId] = set()
        self.held: dict[ContainerId, Held] = {}
        self.by_worker: dict[WorkerId, dict[ContainerId, Held]] = {}
        self.by_deployment: dict[DeploymentId, dict[ContainerId, Held]] = {}
        self.ended: Remembered[ContainerId] = Remembered(REMEMBERED)
        self.mourned: Remembered[ContainerId] = Remembered(REMEMBERED)
        self.refusals: dict[tuple[str, WorkerId], tuple[float, str]] = {}
        self.backoffs: dict[DeploymentId, Backoff] = {}
        self.crashes: dict[DeploymentId, Crash] = {}
        self.parked: dict[str, Parked] = {}
        self.missing_since: dict[str, float] = {}
        self.dirty: dict[str, None] = {}
        self._made = 0

    # -- Containers -----------------------------------------------------------------------------

    def hold(self, held: Held) -> None:
        """Account for a container from now on."""
        self.held[held.container_id] = held
        self.by_worker.setdefault(held.worker_id, {})[held.container_id] = held
        self.by_deployment.setdefault(held.deployment_id, {})[held.container_id] = held

    def release(self, held: Held) -> None:
        """Account for a container no longer: its room is free."""
        del self.held[held.container_id]
        for index, key in (
            (self.by_worker, held.worker_id),
            (self.by_deployment, held.deployment_id),
        ):
            members: dict[ContainerId, Held] = index[key]  # type: ignore[index]
            del members[held.container_id]
            if not members:
                del index[key]  # type: ignore[arg-type]
        self.touch_held(held)
        self.dirty.update(dict.fromkeys(self.parked))

    def touch_held(self, held: Held) -> None:
        """Look again at what a container belongs to."""
        if held.kind is ContainerKind.FUNCTION:
            self.dirty[held.deployment_id] = None
        else:
            self.dirty[held.container_id] = None

    def make_id(self) -> ContainerId:
        """Return a new container id: unique by salt, generation and number."""
        self._made += 1
        key = b"%b/%d/%d" % (self.salt, self.generation, self._made)
        return ContainerId(derive_id("container", blake2b(key, digest_size=16).digest()))

    # -- Wishes ---------------------------------------------------------------------------------

    def target(self, deployment_id: DeploymentId) -> int | None:
        """Return how many containers there should be; None while nobody has decided."""
        deployment = self.deployments.get(deployment_id)
        if deployment is None or deployment.state is DeploymentState.DELETED:
            return 0
        decided = self.targets.get(deployment_id)
        return None if decided is None else decided.target

    def over(self, deployment_id: DeploymentId) -> bool:
        """Return whether no name leads to a deployment any more, and none of its containers is wanted."""
        deployment = self.deployments.get(deployment_id)
        return self.target(deployment_id) in {0, None} and not (
            deployment is not None
            and deployment.state is DeploymentState.ACTIVE
            and (deployment.latest or deployment.ephemeral)
        )

    def spec(self, deployment: Deployment) -> ContainerSpec:
        """Return what a worker needs to start a container of a deployment."""
        spec = deployment.spec
        return ContainerSpec(
            kind=ContainerKind.FUNCTION,
            workspace=deployment.workspace,
            name=spec.name,
            deployment_id=deployment.deployment_id,
            image_digest=deployment.image_digest,
            # An image of a registry brings its own.
            base_python=spec.image.python_version if spec.image.on_host else "",
            source=spec.source,
            env={**spec.image.env, **spec.env},
            resources=spec.resources,
            timeout_s=spec.timeout_s,
            processes=spec.workers,
            concurrency=spec.concurrent_requests,
            is_generator=spec.is_generator,
            outputs=spec.outputs,
            has_secrets=bool(spec.secrets),
            volumes=spec.volumes,
            models=spec.models,
            network=spec.network,
        )

    # -- Room -----------------------------------------------------------------------------------

    def room(self, beat: WorkerBeat, deployment_id: DeploymentId, key: str, now: float) -> Room:
        """Return a worker with what is free on it, for a container of `deployment_id`."""
        held = self.by_worker.get(beat.worker_id, {}).values()
        used = gpu_use((h.gpu_ids, h.resources.gpu_memory_bytes) for h in held)
        replicas = 0
        if deployment_id != NO_DEPLOYMENT:
            replicas = sum(1 for h in held if h.deployment_id == deployment_id and not h.stopping)
        sight = self.liveness.sights.get(beat.worker_id)
        until, reason = self.refusals.get((key, beat.worker_id), (now, ""))
        return Room(
            beat,
            beat.cpu_millis - sum(h.resources.cpu_millis for h in held),
            beat.memory_bytes - sum(h.resources.memory_bytes for h in held),
            tuple(gpu for gpu in beat.gpus if gpu.gpu_id not in used),
            now - sight.heard_at if sight else float("inf"),
            replicas,
            reason if until > now else "",
            tuple(
                (gpu, gpu.memory_bytes - used.get(gpu.gpu_id, 0))
                for gpu in beat.gpus
                if used.get(gpu.gpu_id, 0) < WHOLE
            ),
        )

    # -- Invariants -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError, naming the invariant, if the state contradicts itself."""
        for worker_id, members in self.by_worker.items():
            self._check_worker(worker_id, list(members.values()))
        indexed = [h for members in self.by_worker.values() for h in members.values()]
        _hold(4, "every container is on one worker", len(indexed) == len(self.held))
        indexed = [h for members in self.by_deployment.values() for h in members.values()]
        _hold(5, "every container is of one deployment", len(indexed) == len(self.held))
        for key in self.parked:
            known = key in self.deployments or key in self.wanted
            _hold(6, f"{key}: only what is wanted is parked", known)

    def _check_worker(self, worker_id: WorkerId, held: list[Held]) -> None:
        beat = self.beats.get(worker_id)
        if beat is None or not all(h.own for h in held):
            return  # what others placed is not ours to vouch for
        cpu = sum(h.resources.cpu_millis for h in held)
        memory = sum(h.resources.memory_bytes for h in held)
        used = gpu_use((h.gpu_ids, h.resources.gpu_memory_bytes) for h in held)
        whole = [g for h in held if not h.resources.gpu_memory_bytes for g in h.gpu_ids]
        _hold(1, f"{worker_id}: cpu is not oversold", cpu <= beat.cpu_millis)
        _hold(2, f"{worker_id}: memory is not oversold", memory <= beat.memory_bytes)
        once = len(whole) == len(set(whole)) and all(used[each] == WHOLE for each in whole)
        _hold(3, f"{worker_id}: no GPU that is one container's is another's as well", once)
        shared = all(
            used.get(gpu.gpu_id, 0) <= gpu.memory_bytes or used[gpu.gpu_id] == WHOLE
            for gpu in beat.gpus
        )
        _hold(7, f"{worker_id}: no GPU's memory is oversold", shared)


def gpu_use(held: Iterable[tuple[tuple[str, ...], int]]) -> dict[str, int]:
    """Return the bytes promised of each GPU in use, given (ids, bytes; 0 = whole) of containers."""
    used: dict[str, int] = {}
    for gpu_ids, size in held:
        for gpu_id in gpu_ids:
            used[gpu_id] = used.get(gpu_id, 0) + (size or WHOLE)
    return used


def _hold(number: int, sentence: str, holds: bool) -> None:  # noqa: FBT001
    if not holds:
        raise AssertionError(f"placement invariant {number}: {sentence}")
