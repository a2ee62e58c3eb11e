"""Calls, records, beats and wishes for the scheduler's machines, with sensible defaults."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import (
    ContainerChanged,
    ContainerKind,
    ContainerSpec,
    ContainerState,
    ContainerWanted,
)
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.dispatch import AttemptEnded, AttemptRefused
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InvocationRequested,
    Payload,
    State,
)
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import ContainerView, GpuDevice, WorkerBeat
from glowplug_scheduler import dispatch as d
from glowplug_scheduler import place as p

WORKSPACE = WorkspaceId("default")
GIB = 1024**3


def a_request(
    name: str, deployment: str = "dep_f", *, inputs: int = 1, **more: object
) -> InvocationRequested:
    payload = Payload(format=Format.JSON, data=b"{}")
    return InvocationRequested(
        invocation_id=InvocationId(name),
        workspace=WORKSPACE,
        deployment_id=DeploymentId(deployment),
        inputs=tuple(Input(index=n, args=payload) for n in range(inputs)),
        reply_to="gateway-1",
        **more,  # type: ignore[arg-type]
    )


def arrived(name: str, sequence: int, deployment: str = "dep_f", **more: object):
    size = more.pop("size", 10)
    return d.RequestArrived(a_request(name, deployment, **more), sequence, size)  # type: ignore[arg-type]


def a_record(
    name: str,
    sequence: int,
    state: State = State.ACCEPTED,
    deployment: str = "dep_f",
    container: str = "",
    **more: object,
) -> d.RecordSeen:
    return d.RecordSeen(
        InvocationId(name),
        WORKSPACE,
        DeploymentId(deployment),
        state,
        sequence,
        container_id=ContainerId(container),
        **more,  # type: ignore[arg-type]
    )


def a_container(
    name: str = "c1",
    deployment: str = "dep_f",
    *,
    slots: int = 1,
    state: ContainerState = ContainerState.READY,
    in_flight: tuple[str, ...] = (),
    kind: ContainerKind = ContainerKind.FUNCTION,
    resources: Resources | None = None,
    gpu_ids: tuple[str, ...] = (),
) -> ContainerView:
    return ContainerView(
        container_id=ContainerId(name),
        deployment_id=DeploymentId(deployment),
        workspace=WORKSPACE,
        kind=kind,
        state=state,
        resources=resources or Resources(),
        slots=slots,
        in_flight=tuple(InvocationId(i) for i in in_flight),
        gpu_ids=gpu_ids,
    )


def beats(
    number: int,
    *views: ContainerView,
    worker: str = "w1",
    started_at: float = 1.0,
    cpu_millis: int = 4000,
    memory_bytes: int = 8 * GIB,
    gpus: tuple[GpuDevice, ...] = (),
    **more: object,
) -> d.BeatHeard:
    return d.BeatHeard(
        WorkerBeat(
            worker_id=WorkerId(worker),
            beat=number,
            started_at=started_at,
            host="h",
            cpu_millis=cpu_millis,
            memory_bytes=memory_bytes,
            gpus=gpus,
            containers=views,
            **more,  # type: ignore[arg-type]
        )
    )


def moved(
    state: ContainerState,
    name: str = "c1",
    deployment: str = "dep_f",
    worker: str = "w1",
    kind: ContainerKind = ContainerKind.FUNCTION,
    **more: object,
) -> d.ContainerMoved:
    return d.ContainerMoved(
        ContainerChanged(
            container_id=ContainerId(name),
            deployment_id=DeploymentId(deployment),
            worker_id=WorkerId(worker),
            workspace=WORKSPACE,
            kind=kind,
            state=state,
            **more,  # type: ignore[arg-type]
        )
    )


def ended(container: str, *names: str) -> d.Ended:
    ids = tuple(InvocationId(name) for name in names)
    return d.Ended(AttemptEnded(container_id=ContainerId(container), invocation_ids=ids))


def refused(container: str, name: str, reason: str = "full", request: object = None) -> d.Refused:
    return d.Refused(
        AttemptRefused(
            container_id=ContainerId(container),
            invocation_id=InvocationId(name),
            reason=reason,
            request=request,  # type: ignore[arg-type]
        ),
        10,
    )


def a_target(deployment: str, target: int, generation: int = 1, **more: object) -> p.TargetDecided:
    return p.TargetDecided(
        ScaleDecided(
            deployment_id=DeploymentId(deployment),
            target=target,
            previous=0,
            reason="test",
            generation=generation,
            **more,  # type: ignore[arg-type]
        )
    )


def a_wish(
    name: str, kind: ContainerKind = ContainerKind.SANDBOX, resources: Resources | None = None
) -> p.WantedSeen:
    spec = ContainerSpec(kind=kind, workspace=WORKSPACE, resources=resources or Resources())
    return p.WantedSeen(
        ContainerId(name), ContainerWanted(container_id=ContainerId(name), spec=spec)
    )


def of_type(decisions, kind):
    return [decision for decision in decisions if isinstance(decision, kind)]
