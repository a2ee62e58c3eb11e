"""Sandbox sessions with sensible defaults."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, DeploymentId, SandboxId, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import ContainerChanged, ContainerKind, ContainerState
from glowplug_contracts.messages.sandbox import (
    CreateSandbox,
    SandboxRecord,
    SandboxSpec,
    SandboxState,
)
from glowplug_sandbox.session import open_session

WORKSPACE = WorkspaceId("default")
SANDBOX = SandboxId("sbx_00000000000000000000000001")
CONTAINER = ContainerId("ctr_00000000000000000000000001")
KEY = f"{WORKSPACE}.{SANDBOX}"


def an_ask(sandbox_id: str = SANDBOX, ttl_s: float = 600.0) -> CreateSandbox:
    return CreateSandbox(
        sandbox_id=SandboxId(sandbox_id), workspace=WORKSPACE, spec=SandboxSpec(ttl_s=ttl_s)
    )


def a_session(
    state: SandboxState = SandboxState.STARTING, *, worker: str = "", ttl_s: float = 600.0
) -> SandboxRecord:
    record = open_session(an_ask(ttl_s=ttl_s), CONTAINER, 0.0)
    if state is SandboxState.RUNNING:
        worker = worker or "w1"
    return SandboxRecord(
        **{f: getattr(record, f) for f in record.__struct_fields__}
        | {"state": state, "worker_id": WorkerId(worker)}
    )


def a_sandbox_change(
    state: ContainerState, container_id: str = CONTAINER, worker: str = "w1", **more: object
) -> ContainerChanged:
    return ContainerChanged(
        container_id=ContainerId(container_id),
        deployment_id=DeploymentId("-"),
        worker_id=WorkerId(worker),
        workspace=WORKSPACE,
        kind=ContainerKind.SANDBOX,
        state=state,
        **more,  # type: ignore[arg-type]
    )
