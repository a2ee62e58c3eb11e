"""One idempotency key is one task for its window, whatever gateways and clients do in between."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, InvocationId, make_id
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.streams import IDEMPOTENCY
from glowplug_contracts.subjects import RECORD


def task(number: int) -> InvocationId:
    return InvocationId(make_id("invocation", 0, number.to_bytes(10)))


def at(task_id: str):
    return RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=task_id)


async def put(gateway, deployment, task_id, *args, status=202, **said):
    async with gateway(
        "POST",
        f"/api/v1/deployments/{deployment}/spawn",
        data=json.dumps({"args": args, "kwargs": {}}).encode(),
        headers={
            "Glowplug-Format": "json",
            "Glowplug-Invocation-Id": task_id,
            "Glowplug-Options": json.dumps({"idempotency_key": "order-7"} | said),
        },
    ) as response:
        assert response.status == status, await response.text()
        return await response.json()


@pytest.fixture
async def deployment(gateway):
    return await gateway.deployed(name="pay", kind=FunctionKind.TASK_QUEUE)


async def test_a_repeated_key_is_the_same_task(gateway, deployment, bus):
    assert await put(gateway, deployment, task(1), 5) == {"task_id": task(1)}
    assert await put(gateway, deployment, task(2), 5) == {"task_id": task(1)}
    assert await bus.last(at(task(2))) is None
    record = (await bus.last(at(task(1)))).message
    assert record.idempotent_until == pytest.approx(record.accepted_at + 86_400)


async def test_of_many_puts_at_once_one_makes_the_task(gateway, deployment, bus):
    said = await asyncio.gather(*(put(gateway, deployment, task(n), 5) for n in range(10)))
    assert len({one["task_id"] for one in said}) == 1
    made = [n for n in range(10) if await bus.last(at(task(n))) is not None]
    assert len(made) == 1


async def test_other_arguments_under_the_key_are_refused(gateway, deployment, bus):
    await put(gateway, deployment, task(1), 5)
    said = await put(gateway, deployment, task(2), 6, status=409)
    assert said["error"]["code"] == "invocation.key_reused"
    assert said["error"]["details"]["task_id"] == task(1)
    assert await bus.last(at(task(2))) is None


async def test_the_same_key_of_another_function_is_another_key(gateway, deployment):
    other = await gateway.deployed(name="refund", kind=FunctionKind.TASK_QUEUE)
    await put(gateway, deployment, task(1), 5)
    assert await put(gateway, other, task(2), 6) == {"task_id": task(2)}


async def test_a_new_version_of_the_function_keeps_its_keys(gateway, deployment):
    await put(gateway, deployment, task(1), 5)
    newer = await gateway.deployed(name="pay", kind=FunctionKind.TASK_QUEUE, priority=1)
    assert newer != deployment
    assert await put(gateway, newer, task(2), 5) == {"task_id": task(1)}


async def test_after_its_window_a_key_is_free_though_the_first_task_still_waits(
    gateway, deployment, bus
):
    await put(gateway, deployment, task(1), 5)
    bucket = bus.bucket(IDEMPOTENCY)
    (entry,) = await bucket.entries()
    await bucket.update(entry.key, msgspec.structs.replace(entry.value, until=1.0), entry.revision)
    assert await put(gateway, deployment, task(2), 6) == {"task_id": task(2)}
    assert await put(gateway, deployment, task(3), 6) == {"task_id": task(2)}
    assert (await bus.last(at(task(1)))).message.state is State.ACCEPTED


async def test_a_gateway_that_died_between_key_and_record_loses_nothing(gateway, deployment, bus):
    await put(gateway, deployment, task(1), 5)
    (entry,) = await bus.bucket(IDEMPOTENCY).entries()
    claimed = msgspec.structs.replace(entry.value, invocation_id=task(9))
    await bus.bucket(IDEMPOTENCY).update(entry.key, claimed, entry.revision)
    assert await put(gateway, deployment, task(2), 5) == {"task_id": task(9)}
    assert (await bus.last(at(task(9)))).message.state is State.ACCEPTED


async def test_a_finished_task_is_kept_while_its_key_is_in_force(gateway, deployment, bus):
    await put(gateway, deployment, task(1), 5, keep_result_s=1)
    await gateway.json("DELETE", f"/tasks/{task(1)}")
    found = await bus.last(at(task(1)))
    assert found.message.state is State.CANCELLED
    assert 86_000 < int(found.headers["Nats-TTL"].rstrip("s")) <= 86_400
    assert await put(gateway, deployment, task(2), 5) == {"task_id": task(1)}


async def test_the_webs_own_header_works_at_the_web_door(gateway, deployment):
    async def post(body: bytes):
        async with gateway(
            "POST", "/taskqueue/pay", data=body, headers={"Idempotency-Key": "k"}
        ) as response:
            return response.status, await response.json()

    status, first = await post(b'{"a": 1, "b": 2}')
    assert status == 202
    assert await post(b'{"b":2,"a":1}') == (202, first)
    assert (await post(b'{"a": 3}'))[0] == 409
