"""Callbacks: told signed and at least once, again after failures, by whoever holds the lease."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from glowplug import verify_callback
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.invocation import State

from tests.support.builders_records import a_record, read, record_at, task_id, write
from tests.support.eventually import eventually
from tests.support.gateway_world import Web, open_gateway_service

FAST = {"callback_networks": "127.0.0.0/8", "callback_retry_s": 0.05, "callback_tries_max": 4}


class Receiver:
    """Somebody's web server; `answers` says how it answers, one after the other, then 200."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def on_post(self, request: web.Request) -> web.Response:
        self.heard.append((dict(request.headers), await request.read()))
        await self.hold.wait()
        status = self.answers.pop(0) if self.answers else 200
        headers = {"Location": self.url + "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)


@pytest.fixture
async def receiver():
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.on_post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    receiver.hold.set()
    await runner.cleanup()


@contextlib.asynccontextmanager
async def a_gateway(nats_server, tmp_path, instance="gateway-1", **settings):
    async with (
        open_gateway_service(
            nats_server.url, tmp_path, instance=instance, **(FAST | settings)
        ) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Web(url, session)


@pytest.fixture
async def gateway(world, nats_server, tmp_path):
    async with a_gateway(nats_server, tmp_path) as gateway:
        yield gateway


async def told(bus, number: int, state: str):
    async def is_so():
        callback = (await read(bus, task_id(number))).callback
        return callback if callback and callback.state == state else None

    return await eventually(is_so)


async def test_an_end_is_told_once_with_a_signature_that_verifies(gateway, bus, receiver):
    await write(bus, a_record(1, State.SUCCEEDED, callback_url=receiver.url + "/hook"))
    callback = await told(bus, 1, "delivered")
    assert (callback.attempts, callback.status) == (1, 200)
    ((headers, body),) = receiver.heard
    secret = (await gateway.json("GET", "/api/v1/callbacks/secret"))["secret"]
    said = verify_callback(secret, headers, body)
    assert (said["task_id"], said["state"], said["result"]) == (task_id(1), "completed", 5)
    assert headers["Glowplug-Callback-Id"] == task_id(1)
    shown = await gateway.json("GET", f"/tasks/{task_id(1)}/status")
    assert (shown["callback"]["state"], shown["callback"]["status"]) == ("delivered", 200)


async def test_what_has_not_ended_or_names_no_url_is_not_told(gateway, bus, receiver):
    await write(bus, a_record(1, State.RUNNING, callback_url=receiver.url))
    await write(bus, a_record(2, State.SUCCEEDED))
    await write(bus, a_record(3, State.DEAD, callback_url=receiver.url))
    await told(bus, 3, "delivered")
    assert [headers["Glowplug-Callback-Id"] for headers, _ in receiver.heard] == [task_id(3)]


async def test_a_receiver_that_fails_is_told_again_with_the_same_id(gateway, bus, receiver):
    receiver.answers = [500, 302]
    await write(bus, a_record(1, State.FAILED, callback_url=receiver.url))
    callback = await told(bus, 1, "delivered")
    assert callback.attempts == 3
    assert {headers["Glowplug-Callback-Id"] for headers, _ in receiver.heard} == {task_id(1)}
    assert [headers["Glowplug-Callback-Attempt"] for headers, _ in receiver.heard] == list("123")
    # A redirect is not followed: nobody was asked elsewhere.
    assert len(receiver.heard) == 3
    letter = await read(bus, task_id(1))
    assert (letter.state, letter.outcome.error.type) == (State.FAILED, "ValueError")


async def test_after_its_last_try_it_is_given_up_and_shown(gateway, bus, receiver):
    receiver.answers = [503] * 9
    await write(bus, a_record(1, State.SUCCEEDED, callback_url=receiver.url))
    callback = await told(bus, 1, "failed")
    assert (callback.attempts, callback.status) == (4, 503)
    assert len(receiver.heard) == 4
    (listed,) = (await gateway.json("GET", "/api/v1/tasks"))["tasks"]
    assert listed["callback"] == "failed"


async def test_the_next_holder_tells_what_the_one_that_was_killed_had_begun(
    world, bus, nats_server, tmp_path, receiver
):
    receiver.hold.clear()
    async with a_gateway(nats_server, tmp_path, "gateway-1"):
        await write(bus, a_record(1, State.SUCCEEDED, callback_url=receiver.url))
        await eventually(lambda: len(receiver.heard) == 1)
        # It is stopped while the receiver holds its answer back: the try is cut off, un-noted.
    assert (await read(bus, task_id(1))).callback is None
    receiver.hold.set()
    async with a_gateway(nats_server, tmp_path, "gateway-2"):
        await told(bus, 1, "delivered")
    assert [headers["Glowplug-Callback-Id"] for headers, _ in receiver.heard] == [task_id(1)] * 2


async def test_two_gateways_tell_each_end_once(world, bus, nats_server, tmp_path, receiver):
    async with (
        a_gateway(nats_server, tmp_path, "gateway-1"),
        a_gateway(nats_server, tmp_path, "gateway-2"),
    ):
        for number in range(40):
            await write(bus, a_record(number, State.SUCCEEDED, callback_url=receiver.url))
        for number in range(40):
            await told(bus, number, "delivered")
    ids = [headers["Glowplug-Callback-Id"] for headers, _ in receiver.heard]
    assert sorted(ids) == sorted(task_id(number) for number in range(40))


async def test_a_private_address_is_never_asked_however_it_is_written(
    world, bus, nats_server, tmp_path, receiver
):
    port = receiver.url.rpartition(":")[2]
    async with a_gateway(nats_server, tmp_path, callback_networks="") as gateway:
        for number, host in enumerate(["localhost", "127.0.0.1", "2130706433", "[::1]"]):
            url = f"http://{host}:{port}/"
            await write(bus, a_record(number, State.SUCCEEDED, callback_url=url))
            callback = await told(bus, number, "failed")
            assert callback.status == 0
            assert callback.error
        await gateway.deployed(
            name="q", kind=FunctionKind.TASK_QUEUE, callback_url=f"http://127.0.0.1:{port}/"
        )
        said = await gateway.json("POST", "/taskqueue/q", status=422, json={})
        assert "callback_networks" in said["error"]["message"]
    assert receiver.heard == []


async def test_a_cancel_is_told_too(gateway, bus, receiver):
    sequence = await write(bus, a_record(1, callback_url=receiver.url))
    assert sequence
    await gateway.json("DELETE", f"/tasks/{task_id(1)}")
    await told(bus, 1, "delivered")
    assert (await bus.last(record_at(task_id(1)))).message.state is State.CANCELLED
