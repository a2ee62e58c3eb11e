"""Compositions at the gateway's door: checked, stored waiters first, the same when sent again."""

from __future__ import annotations

import base64
import json

import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, InvocationId, make_id
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.record import KEEP_FOR_OTHERS_S, kept_s
from glowplug_contracts.subjects import RECORD

ARGS = base64.b64encode(b'{"args":[],"kwargs":{}}').decode()


def task_id(number: int) -> InvocationId:
    return InvocationId(make_id("invocation", 0, number.to_bytes(10)))


A, B, C = (task_id(n) for n in (1, 2, 3))


@pytest.fixture
async def deployment(gateway):
    return await gateway.deployed(name="add", kind=FunctionKind.TASK_QUEUE, expires_s=60)


def task(deployment, name, after=(), **more):
    said = {"after": list(after), "pass_as": "value" if after else ""} if after else {}
    return {
        "task_id": name,
        "deployment_id": deployment,
        "format": "json",
        "args": ARGS,
        **said,
        **more,
    }


async def compose(gateway, *tasks, status=202):
    async with gateway(
        "POST", "/api/v1/compositions", data=json.dumps({"tasks": tasks}).encode()
    ) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def found(bus, name):
    return await bus.last(RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=name))


async def test_a_chain_is_records_that_name_each_other_waiters_first(gateway, deployment, bus):
    chain = [task(deployment, A), task(deployment, B, [A]), task(deployment, C, [B])]
    assert await compose(gateway, *chain) == {"task_ids": [A, B, C]}
    a, b, c = [await found(bus, name) for name in (A, B, C)]
    assert (a.message.then, b.message.after, b.message.then, c.message.after) == (
        (B,),
        (A,),
        (C,),
        (B,),
    )
    assert a.sequence > max(b.sequence, c.sequence)
    assert a.message.expires_at > 0
    assert b.message.expires_at == 0
    assert (a.headers["Glowplug-Then"], b.headers["Glowplug-After"]) == (B, "1/succeeded")
    # Sent again, after an answer that was lost, it is the same tasks.
    assert await compose(gateway, *chain) == {"task_ids": [A, B, C]}
    assert (await found(bus, A)).sequence == a.sequence


async def test_what_others_wait_for_is_kept_until_they_had_time(gateway, deployment, bus):
    await compose(gateway, task(deployment, A), task(deployment, B, [A]))
    await gateway.json("DELETE", f"/tasks/{A}")
    record = (await found(bus, A)).message
    assert kept_s(record, record.ended_at) == KEEP_FOR_OTHERS_S


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"after": [C]}, "earlier"),
        ({"after": [A, A]}, "twice"),
        ({"after_if": "maybe"}, "after_if"),
        ({"pass_as": "everything"}, "pass_as"),
        ({"after": [], "pass_as": "value"}, "nothing to pass"),
        ({"options": {"delay_s": 5}}, "no delay"),
        ({"options": {"fifo_key": "x"}}, "fifo"),
        ({"options": {"idempotency_key": "x"}}, "idempotency"),
        ({"options": {"priority": 11}}, "priority"),
        ({"task_id": A}, "twice"),
        ({"task_id": "x"}, "no invocation id"),
    ],
)
async def test_what_is_wrong_is_refused_and_nothing_is_stored(
    gateway, deployment, bus, change, said
):
    wrong = task(deployment, B, [A]) | change
    answer = await compose(gateway, task(deployment, A), wrong, status=422)
    assert said in answer["error"]["message"]
    assert await found(bus, A) is None
    assert await found(bus, B) is None


async def test_too_many_and_none_are_refused(gateway, deployment):
    many = [task(deployment, task_id(n)) for n in range(1001)]
    await compose(gateway, *many, status=422)
    await compose(gateway, status=422)
    one = [task(deployment, A), *(task(deployment, task_id(n), [A]) for n in range(10, 211))]
    assert "more than 200" in (await compose(gateway, *one, status=422))["error"]["message"]
