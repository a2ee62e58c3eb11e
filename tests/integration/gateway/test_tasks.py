"""Durable work: accepted once, shown, awaited, cancelled."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, InvocationId, WorkerId, make_id
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.dispatch import InvocationFact, InvocationFacts
from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, State
from glowplug_contracts.messages.record import record_headers
from glowplug_contracts.subjects import FACTS, RECORD

from tests.support.eventually import eventually
from tests.support.gateway_world import ok

TASK = InvocationId(make_id("invocation", 0, (7).to_bytes(10)))


def at(task: str):
    return RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=task)


async def end(bus, task: str, outcome: InputOutcome, *, fact: bool = True) -> None:
    """End a record as a worker does."""
    found = await bus.last(at(task))
    ended = msgspec.structs.replace(
        found.message, state=outcome.state, outcome=outcome, attempt=1, ended_at=4e9
    )
    await bus.append(
        at(task), ended, expect_last=found.sequence, headers=record_headers(ended), ttl_s=60
    )
    if fact:
        one = InvocationFact(
            invocation_id=InvocationId(task),
            deployment_id=ended.deployment_id,
            workspace=ended.workspace,
            state=outcome.state,
            attempt=1,
            at=5.0,
        )
        worker = WorkerId("wrk_1")
        await bus.append(FACTS.at(worker_id=worker), InvocationFacts(facts=(one,)))


async def spawn(gateway, deployment, *args, status=202, **headers):
    async with gateway(
        "POST",
        f"/api/v1/deployments/{deployment}/spawn",
        data=json.dumps({"args": args, "kwargs": {}}).encode(),
        headers={"Glowplug-Format": "json", "Glowplug-Invocation-Id": TASK} | headers,
    ) as response:
        assert response.status == status
        return await response.json()


@pytest.fixture
async def deployment(gateway):
    return await gateway.deployed(name="add", kind=FunctionKind.FUNCTION, priority=3, expires_s=60)


async def test_a_spawned_task_is_a_record_before_the_answer(gateway, deployment, bus):
    assert await spawn(gateway, deployment, 1) == {"task_id": TASK}
    found = await bus.last(at(TASK))
    record = found.message
    assert (record.state, record.deployment_id, record.priority) == (State.ACCEPTED, deployment, 3)
    assert record.expires_at == pytest.approx(record.accepted_at + 60)
    assert found.headers["Glowplug-State"] == "accepted"
    assert found.headers["Glowplug-Deployment"] == deployment
    shown = await gateway.json("GET", f"/tasks/{TASK}/status")
    assert (shown["status"], shown["state"], shown["result"]) == ("PENDING", "pending", None)


async def test_the_same_spawn_again_is_the_same_task(gateway, deployment, bus):
    await spawn(gateway, deployment, 1)
    sequence = (await bus.last(at(TASK))).sequence
    assert await spawn(gateway, deployment, 1) == {"task_id": TASK}
    said = await spawn(gateway, deployment, 2, status=409)
    assert said["error"]["code"] == "invocation.conflict"
    assert (await bus.last(at(TASK))).sequence == sequence


async def test_status_and_result_follow_the_record(gateway, deployment, bus):
    await spawn(gateway, deployment, 1)
    result = f"/api/v1/tasks/{TASK}/result"
    assert (await gateway.json("GET", result, status=202))["state"] == "pending"
    await end(bus, TASK, ok({"sum": 5}))
    for path in (f"/tasks/{TASK}/status", f"/api/v1/tasks/{TASK}"):
        shown = await gateway.json("GET", path)
        assert (shown["status"], shown["state"], shown["progress"]) == (
            "COMPLETE",
            "completed",
            100,
        )
        assert shown["result"] == {"sum": 5}
    async with gateway("GET", result) as response:
        assert response.headers["Glowplug-State"] == "succeeded"
        assert await response.json(content_type=None) == {"sum": 5}


@pytest.mark.parametrize("fact", [True, False])
async def test_whoever_waits_for_a_result_gets_it(gateway, deployment, bus, fact):
    await spawn(gateway, deployment, 1)
    waiting = asyncio.ensure_future(gateway.json("GET", f"/api/v1/tasks/{TASK}/result?wait_s=60"))
    await asyncio.sleep(0)
    await end(bus, TASK, ok(5), fact=fact)
    assert await waiting == 5


@pytest.mark.parametrize(
    ("state", "status", "public", "reason"),
    [
        (State.FAILED, "ERROR", "failed", "error"),
        (State.TIMED_OUT, "TIMEOUT", "failed", "timeout"),
        (State.EXPIRED, "EXPIRED", "failed", "expired"),
        (State.DEAD, "ERROR", "failed", "dead"),
    ],
)
async def test_states_have_public_names(gateway, deployment, bus, state, status, public, reason):
    await spawn(gateway, deployment, 1)
    error = RemoteError(code="function.failed", type="KeyError", message="x")
    await end(bus, TASK, InputOutcome(state=state, error=error))
    shown = await gateway.json("GET", f"/api/v1/tasks/{TASK}")
    assert (shown["status"], shown["state"], shown["reason"]) == (status, public, reason)
    assert shown["error"]["type"] == "KeyError"
    async with gateway("GET", f"/api/v1/tasks/{TASK}/result") as response:
        assert response.headers["Glowplug-State"] == state.value
        body = await response.read()
    assert msgspec.msgpack.decode(body, type=RemoteError) == error


async def test_cancelling_ends_the_record_and_tells_the_dispatcher(gateway, deployment, bus, world):
    await spawn(gateway, deployment, 1)
    assert (await gateway.json("DELETE", f"/tasks/{TASK}"))["state"] == "cancelled"
    assert (await bus.last(at(TASK))).message.state is State.CANCELLED
    await eventually(lambda: world.cancelled == [TASK])


async def test_what_has_ended_is_not_cancelled(gateway, deployment, bus):
    await spawn(gateway, deployment, 1)
    await end(bus, TASK, ok(5))
    assert (await gateway.json("DELETE", f"/tasks/{TASK}"))["state"] == "completed"


@pytest.mark.parametrize(("task", "status"), [(TASK, 404), ("inv_x", 422), ("dep_1", 422)])
async def test_unknown_tasks_are_404(gateway, task, status):
    await gateway.json("GET", f"/tasks/{task}/status", status=status)
    await gateway.json("DELETE", f"/tasks/{task}", status=status)


async def test_queues_and_functions_take_json_over_http(gateway, deployment, bus):
    await gateway.deployed(name="queue", kind=FunctionKind.TASK_QUEUE)
    for path in ("/taskqueue/queue", "/function/add"):
        task = (await gateway.json("POST", path, status=202, json={"a": 2}))["task_id"]
        args = (await bus.last(at(task))).message.input.args
        assert json.loads(args.data) == {"args": [], "kwargs": {"a": 2}}
    await gateway.json("POST", "/taskqueue/add", status=404, json={})


async def test_a_full_queue_is_429(gateway, bus):
    await gateway.deployed(name="narrow", kind=FunctionKind.TASK_QUEUE, max_pending=2)
    for expected in (202, 202, 429):
        await gateway.json("POST", "/taskqueue/narrow", status=expected, json={})


async def test_a_generator_can_not_be_spawned(gateway):
    deployment = await gateway.deployed(is_generator=True)
    said = await spawn(gateway, deployment, status=422)
    assert "generator" in said["error"]["message"]


async def test_the_list_shows_the_newest_first(gateway, deployment, bus):
    await spawn(gateway, deployment, 1)
    await end(bus, TASK, ok(5))

    async def listed():
        found = (await gateway.json("GET", "/api/v1/tasks?limit=10"))["tasks"]
        return [(task["task_id"], task["state"]) for task in found] == [(TASK, "completed")]

    await eventually(listed)  # its end was written past this gateway, which hears of it


async def test_large_arguments_are_kept_as_long_as_their_record_may_need_them(gateway, world, bus):
    deployment = await gateway.deployed(kind=FunctionKind.FUNCTION, expires_s=3_600, timeout_s=60)
    await spawn(gateway, deployment, "x" * 300_000)
    record = (await bus.last(at(TASK))).message
    keep_s = int(world.kept[record.input.args.blob])
    # One hour until it starts; then four tries, each of which may wait for a container and run.
    assert 3_600 + 4 * 60 < keep_s < 7 * 86_400


async def test_a_record_that_may_wait_for_ever_expires_if_its_arguments_are_large(
    gateway, world, bus
):
    deployment = await gateway.deployed(kind=FunctionKind.FUNCTION)
    await spawn(gateway, deployment, "x" * 300_000)
    record = (await bus.last(at(TASK))).message
    assert record.expires_at == pytest.approx(record.accepted_at + 30 * 86_400)
    assert int(world.kept[record.input.args.blob]) > record.expires_at - record.accepted_at


async def test_arguments_that_are_gone_are_said_when_the_record_is_made(gateway, bus):
    deployment = await gateway.deployed(kind=FunctionKind.FUNCTION)
    headers = {"Glowplug-Blob": "0" * 64, "Glowplug-Size": "2"}
    said = await spawn(gateway, deployment, status=422, **headers)
    assert said["error"]["code"] == "request.bad_digest"
    assert await bus.last(at(TASK)) is None
