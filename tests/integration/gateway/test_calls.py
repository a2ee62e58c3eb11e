"""The Python door: calls, maps, losses and disconnects."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import msgspec
import pytest
from glowplug_contracts.ids import InvocationId, make_id
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.http import FRAMES_TYPE, MapRequest, StreamItem
from glowplug_contracts.messages.invocation import (
    AttemptLost,
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    Reply,
    State,
)
from glowplug_gateway import waiting

from tests.support.eventually import eventually
from tests.support.gateway_world import Web, as_json, ok, open_gateway_service


def an_id(number: int = 1) -> InvocationId:
    return InvocationId(make_id("invocation", 0, number.to_bytes(10)))


def read_frames(body: bytes, kind: type) -> list:
    found = []
    while body:
        size = int.from_bytes(body[:4])
        found.append(msgspec.msgpack.decode(body[4 : 4 + size], type=kind))
        body = body[4 + size :]
    return found


@pytest.fixture
def held_back(world):
    """Work that ends only when the event is set (at the latest with the test)."""
    release = asyncio.Event()

    async def wait(_request, one):
        await release.wait()
        return ok("released", one.index)

    world.work = wait
    yield release
    release.set()


async def test_a_call_returns_what_the_worker_answered(gateway, world):
    deployment = await gateway.deployed(kind=FunctionKind.FUNCTION)
    headers, body = await gateway.call(deployment, 1, b=2)
    assert json.loads(body) == {"args": [1], "kwargs": {"b": 2}}
    assert headers["Glowplug-State"] == "succeeded"
    assert headers["Glowplug-Format"] == "json"
    assert headers["Glowplug-Run-Ms"] == "1.500"
    assert headers["Glowplug-Invocation-Id"].startswith("inv_")
    (request,) = world.requests
    assert (request.attempt, request.deployment_id) == (1, deployment)


async def test_an_exception_is_an_answer(gateway, world):
    error = RemoteError(code="function.failed", type="KeyError", message="'x'", pickled=b"\x80")

    async def fail(_request, one):
        return InputOutcome(index=one.index, state=State.FAILED, error=error)

    world.work = fail
    headers, body = await gateway.call(await gateway.deployed())
    assert headers["Glowplug-State"] == "failed"
    assert msgspec.msgpack.decode(body, type=RemoteError) == error


async def test_a_reported_loss_is_sent_again_until_it_succeeds(gateway, world):
    world.report_lost = {1, 2}
    _, body = await gateway.call(await gateway.deployed(), "again")
    assert json.loads(body)["args"] == ["again"]
    assert [request.attempt for request in world.requests] == [1, 2, 3]


async def test_a_loss_nobody_reports_is_found_by_probing(gateway, world):
    world.lose_attempts = {1}
    _, body = await gateway.call(await gateway.deployed(), "found")
    assert json.loads(body)["args"] == ["found"]
    assert [request.attempt for request in world.requests] == [1, 2]


async def test_a_call_lost_too_often_is_503(gateway, world):
    world.report_lost = {1, 2, 3, 4, 5}
    _, body = await gateway.call(await gateway.deployed(), status=503)
    assert json.loads(body)["error"]["code"] == "invocation.lost"
    assert len(world.requests) == 4


async def test_the_same_id_joins_and_repeats_continue_the_chain(gateway, world, held_back):
    deployment = await gateway.deployed()
    headers = {"Glowplug-Invocation-Id": an_id()}
    first = asyncio.ensure_future(gateway.call(deployment, headers=headers))
    await eventually(lambda: world.requests)
    second = asyncio.ensure_future(gateway.call(deployment, headers=headers))
    other = await gateway.call(deployment, "other", headers=headers, status=409)
    assert json.loads(other[1])["error"]["code"] == "invocation.conflict"
    held_back.set()
    answers = await asyncio.gather(first, second)
    assert [json.loads(body) for _, body in answers] == ["released"] * 2
    await gateway.call(deployment, headers=headers)
    assert [request.attempt for request in world.requests] == [1, 2]


async def test_another_gateway_takes_the_same_id_too(gateway, world, nats_server, tmp_path):
    deployment = await gateway.deployed()
    headers = {"Glowplug-Invocation-Id": an_id()}
    await gateway.call(deployment, headers=headers)
    async with open_gateway_service(nats_server.url, tmp_path, "gateway-2") as url:
        await Web(url, gateway.session).call(deployment, headers=headers)
    assert [request.reply_to for request in world.requests] == ["gateway-1", "gateway-2"]


async def test_a_caller_that_leaves_cancels_after_a_while(gateway, world, held_back, monkeypatch):
    monkeypatch.setattr(waiting, "DISCONNECT_GRACE_S", 0.3)
    deployment = await gateway.deployed()
    headers = {"Glowplug-Invocation-Id": an_id()}
    calling = asyncio.ensure_future(gateway.call(deployment, headers=headers))
    await eventually(lambda: world.requests)
    calling.cancel()
    await eventually(lambda: world.cancelled == [an_id()])


async def test_cancelling_answers_the_caller_at_once(gateway, world, held_back):
    deployment = await gateway.deployed()
    headers = {"Glowplug-Invocation-Id": an_id()}
    calling = asyncio.ensure_future(gateway.call(deployment, headers=headers))
    await eventually(lambda: world.requests)
    await gateway.json("DELETE", f"/api/v1/calls/{an_id()}")
    answered, _ = await calling
    assert answered["Glowplug-State"] == "cancelled"
    await eventually(lambda: world.cancelled == [an_id()])
    await gateway.json("DELETE", f"/api/v1/calls/{an_id()}", status=404)


async def test_large_arguments_become_a_blob_and_large_results_are_named(gateway, world):
    digest = world.store(b"r" * 400_000)

    async def large(_request, one):
        assert world.blobs[one.args.blob] == b"x" * 300_000
        result = Payload(format=Format.PICKLE, blob=digest, size=400_000)
        return InputOutcome(index=one.index, state=State.SUCCEEDED, result=result)

    world.work = large
    call = f"/api/v1/deployments/{await gateway.deployed()}/call"
    async with gateway("POST", call, data=b"x" * 300_000) as response:
        assert response.status == 200
        assert response.headers["Glowplug-Blob"] == digest
        assert response.headers["Glowplug-Size"] == "400000"
        assert await response.read() == b""


async def test_arguments_may_be_a_blob_already(gateway, world):
    digest = world.store(b"{}")
    headers = {"Glowplug-Blob": digest, "Glowplug-Size": "2", "Glowplug-Format": "json"}
    call = f"/api/v1/deployments/{await gateway.deployed()}/call"
    async with gateway("POST", call, headers=headers) as response:
        assert response.status == 200
    assert world.requests[0].inputs[0].args.blob == digest


@pytest.mark.parametrize(
    "headers",
    [
        {"Glowplug-Format": "yaml"},
        {"Glowplug-Invocation-Id": "inv_1"},
        {"Glowplug-Blob": "x", "Glowplug-Size": "2"},
        {"Glowplug-Blob": "a" * 64},
        {"Glowplug-Stream": "1"},
        {"Glowplug-Deadline-S": "soon"},
    ],
)
async def test_bad_headers_are_422(gateway, world, headers):
    await gateway.call(await gateway.deployed(), headers=headers, status=422)
    assert not world.requests


async def test_a_deadline_answers_504_and_cancels(gateway, world, held_back):
    headers = {"Glowplug-Deadline-S": "0.3", "Glowplug-Invocation-Id": an_id()}
    _, body = await gateway.call(await gateway.deployed(), headers=headers, status=504)
    assert json.loads(body)["error"]["code"] == "invocation.deadline"
    await eventually(lambda: world.cancelled == [an_id()])


async def run_map(gateway, deployment, count: int, status: int = 200):
    inputs = tuple(Input(index=n, args=as_json({"args": [n], "kwargs": {}})) for n in range(count))
    body = msgspec.msgpack.encode(MapRequest(invocation_id=an_id(), inputs=inputs))
    async with gateway("POST", f"/api/v1/deployments/{deployment}/map", data=body) as response:
        data = await response.read()
        assert response.status == status, data
        if status == 200:
            assert response.headers["Content-Type"] == FRAMES_TYPE
            return read_frames(data, InputOutcome)
        return json.loads(data)


async def test_a_map_answers_every_input_once(gateway):
    outcomes = await run_map(gateway, await gateway.deployed(), 200)
    assert sorted(one.index for one in outcomes) == list(range(200))
    assert {one.state for one in outcomes} == {State.SUCCEEDED}


async def test_a_failed_start_gives_every_input_the_error(gateway, world):
    error = RemoteError(code="function.start_failed", type="ImportError", message="no torch")

    async def fail_to_start(request):
        lost = AttemptLost(
            invocation_id=request.invocation_id, attempt=1, cause="start_failed", error=error
        )
        await world.reply(request, Reply(lost=lost))

    world.run = fail_to_start
    outcomes = await run_map(gateway, await gateway.deployed(), 3)
    assert [(one.index, one.error) for one in outcomes] == [(n, error) for n in range(3)]


async def test_a_call_whose_deployment_was_deleted_meanwhile_is_not_found(gateway, world):
    error = RemoteError(code="deployment.not_found", type="NotFoundError", message="was deleted")

    async def say_deleted(request):
        lost = AttemptLost(
            invocation_id=request.invocation_id, attempt=1, cause="start_failed", error=error
        )
        await world.reply(request, Reply(lost=lost))

    world.run = say_deleted
    deployment = await gateway.deployed()
    _, body = await gateway.call(deployment, status=404)
    assert json.loads(body)["error"]["code"] == "deployment.not_found"
    said = await run_map(gateway, deployment, 3, status=404)
    assert said["error"]["code"] == "deployment.not_found"


async def test_a_batch_may_not_be_too_long(gateway):
    said = await run_map(gateway, await gateway.deployed(), 257, status=422)
    assert said["error"]["code"] == "request.invalid"


async def test_a_stream_arrives_item_by_item_with_credit(gateway, world):
    async def count(request, one):
        for number in range(100):
            if number >= 64:
                await eventually(lambda: world.credits and max(world.credits) > number)  # noqa: B023
            await world.frame(request, number, number)
        return InputOutcome(index=one.index, state=State.SUCCEEDED)

    world.work = count
    deployment = await gateway.deployed(is_generator=True)
    _, body = await gateway.call(deployment, headers={"Glowplug-Stream": "1"})
    items = read_frames(body, StreamItem)
    assert [json.loads(one.item.data) for one in items[:-1]] == list(range(100))
    assert items[-1] == StreamItem(kind="end")


async def test_a_gap_ends_the_stream_with_an_error(gateway, world):
    async def skip(request, one):
        await world.frame(request, 0, 0)
        await world.frame(request, 2, 2)
        return InputOutcome(index=one.index, state=State.SUCCEEDED)

    world.work = skip
    deployment = await gateway.deployed(is_generator=True)
    _, body = await gateway.call(deployment, headers={"Glowplug-Stream": "1"})
    items = read_frames(body, StreamItem)
    assert [one.kind for one in items] == ["item", "error"]
    assert items[-1].error.code == "invocation.lost"


async def test_a_body_beyond_the_bound_is_413(gateway):
    call = f"/api/v1/deployments/{await gateway.deployed()}/call"
    async with gateway("POST", call, data=io.BytesIO(b"x" * (16 * 1024 * 1024 + 1))) as response:
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "request.too_large"


async def test_an_upload_that_stops_runs_nothing(gateway, world):
    deployment = await gateway.deployed()

    async def half():
        yield b"x" * 100
        raise OSError("gone")

    with pytest.raises((aiohttp.ClientError, OSError)):
        async with gateway("POST", f"/api/v1/deployments/{deployment}/call", data=half()):
            pass
    await gateway.call(deployment, 1)
    assert len(world.requests) == 1
