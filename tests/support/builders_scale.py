"""Deployments, backlogs, beats and container events with sensible defaults."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import ContainerChanged, ContainerKind, ContainerState
from glowplug_contracts.messages.deployment import (
    AutoscalerSpec,
    Deployment,
    DeploymentSpec,
    DeploymentState,
    FunctionKind,
    Resources,
    SourceRef,
)
from glowplug_contracts.messages.dispatch import BacklogChanged
from glowplug_contracts.messages.worker import ContainerView, WorkerBeat

WORKSPACE = WorkspaceId("default")
GIB = 1024**3


def a_deployment(
    name: str = "f",
    *,
    minimum: int = 0,
    maximum: int = 1,
    buffer: int = 0,
    tasks_per_container: int = 1,
    keep_warm_s: float = 10.0,
    resources: Resources | None = None,
    concurrency: int = 1,
    latest: bool = True,
    ephemeral: bool = False,
    deleted: bool = False,
    max_pending: int = 0,
) -> Deployment:
    """A version of function `name` whose id is `dep_<name>`."""
    return Deployment(
        deployment_id=DeploymentId(f"dep_{name}"),
        workspace=WORKSPACE,
        version=1,
        spec=DeploymentSpec(
            name=name,
            kind=FunctionKind.FUNCTION,
            source=SourceRef(handler="app:f"),
            resources=resources or Resources(),
            concurrent_requests=concurrency,
            max_pending=max_pending,
            autoscaler=AutoscalerSpec(
                min_containers=minimum,
                max_containers=maximum,
                buffer_containers=buffer,
                tasks_per_container=tasks_per_container,
                keep_warm_s=keep_warm_s,
            ),
        ),
        state=DeploymentState.DELETED if deleted else DeploymentState.ACTIVE,
        latest=latest,
        ephemeral=ephemeral,
    )


def a_backlog(
    name: str = "f",
    queued: int = 0,
    in_flight: int = 0,
    arrivals: int = 0,
    trace: str = "",
    generation: int = 0,
    number: int = 0,
) -> BacklogChanged:
    return BacklogChanged(
        deployment_id=DeploymentId(f"dep_{name}"),
        queued=queued,
        in_flight=in_flight,
        arrivals=arrivals or queued,
        trace=trace,
        generation=generation,
        number=number,
    )


def a_change(
    state: ContainerState,
    container: str = "c1",
    name: str = "f",
    worker: str = "w1",
    **more: object,
) -> ContainerChanged:
    return ContainerChanged(
        container_id=ContainerId(container),
        deployment_id=DeploymentId(f"dep_{name}"),
        worker_id=WorkerId(worker),
        workspace=WORKSPACE,
        kind=ContainerKind.FUNCTION,
        state=state,
        **more,  # type: ignore[arg-type]
    )


def a_view(
    container: str = "c1",
    name: str = "f",
    state: ContainerState = ContainerState.READY,
    in_flight: tuple[str, ...] = (),
    kind: ContainerKind = ContainerKind.FUNCTION,
) -> ContainerView:
    return ContainerView(
        container_id=ContainerId(container),
        deployment_id=DeploymentId(f"dep_{name}"),
        workspace=WORKSPACE,
        kind=kind,
        state=state,
        resources=Resources(),
        slots=1,
        in_flight=tuple(InvocationId(i) for i in in_flight),
    )


def a_beat(*views: ContainerView, worker: str = "w1", beat: int = 1) -> WorkerBeat:
    return WorkerBeat(
        worker_id=WorkerId(worker),
        beat=beat,
        started_at=0.0,
        host="h",
        cpu_millis=4000,
        memory_bytes=8 * GIB,
        containers=views,
    )
