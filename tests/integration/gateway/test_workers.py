"""Workers and containers over HTTP: orders reach their worker; what ended is remembered with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import (
    ContainerChanged,
    ContainerKind,
    ContainerState,
)
from glowplug_contracts.messages.deployment import Principal, Resources
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.worker import (
    ContainerView,
    TemplateView,
    WorkerBeat,
    WorkerOrder,
    WorkerOrdered,
)
from glowplug_contracts.streams import TOKENS
from glowplug_contracts.subjects import CONTAINER, WORKER_BEAT, WORKER_ORDER
from glowplug_gateway.auth import token_digest

from tests.support.eventually import eventually

WORKER = WorkerId("worker-1")
DEPLOYMENT = "dep_" + "0" * 26


def a_view(container_id: str, workspace: str) -> ContainerView:
    return ContainerView(
        container_id=ContainerId(container_id),
        deployment_id=DeploymentId(DEPLOYMENT),
        workspace=WorkspaceId(workspace),
        kind=ContainerKind.FUNCTION,
        state=ContainerState.READY,
        resources=Resources(),
    )


def a_template(workspace: str, deployment_id: str, memory_bytes: int) -> TemplateView:
    return TemplateView(
        workspace=WorkspaceId(workspace),
        deployment_id=DeploymentId(deployment_id),
        memory_bytes=memory_bytes,
    )


@pytest.fixture
async def orders(bus, gateway) -> list[WorkerOrder]:
    """The orders that a live worker got."""
    taken: list[WorkerOrder] = []

    async def on_order(delivery: Any) -> None:
        taken.append(delivery.message)
        await delivery.answer(WorkerOrdered(cordoned=True, containers=2))

    await bus.listen(WORKER_ORDER.pattern(worker_id=WORKER), on_order)
    beat = WorkerBeat(
        worker_id=WORKER,
        beat=1,
        started_at=1.0,
        host="h",
        cpu_millis=4000,
        memory_bytes=1 << 30,
        containers=(a_view("ctr_mine", "default"), a_view("ctr_other", "other")),
        templates=(DeploymentId("dep_mine"), DeploymentId("dep_other")),
        plain_starts={DeploymentId("dep_else"): "importing it alone failed: a secret of others"},
        kept=(a_template("default", "dep_mine", 7), a_template("other", "dep_other", 5)),
    )

    async def heard() -> bool:
        await bus.send(WORKER_BEAT.at(worker_id=WORKER), beat)
        return bool((await gateway.json("GET", "/api/v1/workers"))["workers"])

    await eventually(heard)
    return taken


async def test_orders_reach_the_worker_and_only_the_platform_gives_them(gateway, bus, orders):
    drained = await gateway.json("POST", "/api/v1/workers/worker-1/drain?grace_s=7")
    assert drained == {"worker_id": "worker-1", "cordoned": True, "containers": 2}
    await gateway.json("POST", "/api/v1/workers/worker-1/cordon")
    assert orders[0] == WorkerOrder(order="drain", grace_s=7.0)
    assert [one.order for one in orders] == ["drain", "cordon"]

    guest = Principal(workspace=WorkspaceId("other"), name="guest")
    await bus.bucket(TOKENS).create(token_digest("gp_guest"), guest)

    async def refused() -> bool:
        async with gateway("POST", "/api/v1/workers/worker-1/drain", token="gp_guest") as response:
            return response.status == 403

    await eventually(refused)
    for path, status in (
        ("/api/v1/workers/worker-2/drain", 404),
        ("/api/v1/workers/worker-1/hibernate", 422),
        ("/api/v1/workers/worker-1/drain?grace_s=-1", 422),
    ):
        async with gateway("POST", path) as response:
            assert response.status == status, path
    assert len(orders) == 2


async def test_a_worker_is_shown_with_the_callers_containers_only(gateway, orders):
    shown = await gateway.json("GET", "/api/v1/workers/worker-1")
    assert shown["containers"] == 2
    assert [one["container_id"] for one in shown["yours"]] == ["ctr_mine"]
    assert [one["deployment_id"] for one in shown["templates"]] == ["dep_mine"]
    assert shown["templates_bytes"] == 12
    (listed,) = (await gateway.json("GET", "/api/v1/workers"))["workers"]
    for told in (shown, listed):
        assert "dep_other" not in json.dumps(told)
        assert "secret of others" not in json.dumps(told)


async def test_ended_containers_are_listed_with_why_page_by_page(gateway, bus):
    def change(number: int, state: str, **fields: Any) -> ContainerChanged:
        return ContainerChanged(
            container_id=ContainerId(f"ctr_0000000000000000000000000{number}"),
            deployment_id=DeploymentId(DEPLOYMENT),
            worker_id=WORKER,
            workspace=WorkspaceId(fields.pop("workspace", "default")),
            kind=ContainerKind.FUNCTION,
            state=ContainerState(state),
            at=float(number),
            **fields,
        )

    error = RemoteError(
        code="function.out_of_memory", type="OutOfMemoryError", message="it used 3 of 2 MiB"
    )
    for one in (
        change(1, "ready"),
        change(2, "starting"),
        change(2, "failed", reason="crashed", error=error),
        change(2, "stopped", reason="a late word of a worker that was thought dead"),
        change(3, "stopped", reason="idle"),
        change(4, "stopped", workspace="other"),
    ):
        at = CONTAINER.at(deployment_id=one.deployment_id, container_id=one.container_id)
        await bus.append(at, one)

    async def listed(query: str = "") -> Any:
        return await gateway.json("GET", f"/api/v1/containers?all=1{query}")

    async def all_known() -> bool:
        return len((await listed())["containers"]) == 3

    await eventually(all_known)
    first = await listed("&limit=2")
    assert [(one["state"], one["reason"], one["code"]) for one in first["containers"]] == [
        ("stopped", "idle", ""),
        ("failed", "crashed", "function.out_of_memory"),
    ]
    assert first["containers"][1]["message"] == "it used 3 of 2 MiB"
    rest = await listed(f"&limit=2&cursor={first['cursor']}")
    assert ([one["state"] for one in rest["containers"]], rest["cursor"]) == (["ready"], None)
    failed = (await listed(f"&state=failed&deployment={DEPLOYMENT}"))["containers"]
    assert [one["at"] for one in failed] == [2.0]
    for wrong in ("&state=lost", "&cursor=x", "&limit=0"):
        async with gateway("GET", f"/api/v1/containers?all=1{wrong}") as response:
            assert response.status == 422, wrong
