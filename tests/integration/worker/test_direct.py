"""The direct path, worker's side: a scripted gateway sends calls through a real link."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.messages.container import StopContainer
from glowplug_contracts.messages.dispatch import AttemptsBegan
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.link import (
    LINK_PATH,
    CallAnswered,
    CallCancelled,
    CallRefused,
    CallSent,
    SlotsTold,
    ToGateway,
    WorkerLinked,
)
from glowplug_contracts.subjects import BEGAN, OUTCOME, STOP
from glowplug_worker import frames
from glowplug_worker.links import Links

from tests.support.builders_worker import (
    WORKER,
    WORKSPACE,
    Peer,
    ScriptedBackend,
    a_request,
    echo,
    open_worker,
)
from tests.support.eventually import eventually

GATEWAY = "gateway-1"


class LinkedGateway:
    """A gateway that keeps what it hears through its link."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.socket: web.WebSocketResponse | None = None
        self.links = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.socket = socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.links += 1
        async for message in socket:
            self.heard.put_nowait(decode(message.data, ToGateway, "msgpack"))
        return socket

    async def send(self, frame: Any) -> None:
        assert self.socket is not None
        await self.socket.send_bytes(encode(frame, "msgpack"))

    async def call(self, request: Any, container_id: str = "ctr_1") -> None:
        await self.send(CallSent(container_id=container_id, shard=0, request=request))

    async def hear(self, kind: type) -> Any:
        """Return the next frame of a kind; the others are dropped."""
        async with asyncio.timeout(10):
            while not isinstance(frame := await self.heard.get(), kind):
                pass
        return frame


@contextlib.asynccontextmanager
async def a_gateway() -> AsyncIterator[LinkedGateway]:
    gateway, app = LinkedGateway(), web.Application()
    app.router.add_get(LINK_PATH, gateway.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield gateway
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def linked(
    bus: Any, directory: Path, backend: Any
) -> AsyncIterator[tuple[LinkedGateway, Links]]:
    """A worker that is linked to a gateway."""
    async with a_gateway() as gateway, aiohttp.ClientSession() as session:
        tasks: set[asyncio.Task[None]] = set()

        def spawn(work: Any, _name: str) -> asyncio.Task[None]:
            task = asyncio.ensure_future(work)
            tasks.add(task)
            return task

        links = Links(session, WORKER, lambda: {GATEWAY: gateway.url}, spawn)
        async with open_worker(bus, directory, backend, answers=links) as service:
            links.serve(service)
            await links.keep()
            assert await gateway.hear(WorkerLinked) == WorkerLinked(worker_id=WORKER, tasks=True)
            try:
                yield gateway, links
            finally:
                await links.close()
                await asyncio.wait(tasks)


def first(**changes: Any) -> Any:
    request = a_request(data=b'{"args":[1],"kwargs":{}}')
    return msgspec.structs.replace(request, reply_to=GATEWAY, first=True, **changes)


async def test_tells_its_room_and_answers_before_it_stores(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        told = await gateway.hear(SlotsTold)
        assert (told.container_id, told.free, told.seen) == ("ctr_1", 1, 0)
        await gateway.call(first())
        answer = await gateway.hear(CallAnswered)
        assert not answer.reply.stored
        assert (answer.slots.free, answer.slots.seen) == (1, 1)
        stored = await eventually(lambda: bus.all(_outcomes()))
        assert [each.message for each in stored] == [answer.reply.outcome]
        assert rest.replies == []  # nothing of it went over the broker


def _outcomes() -> Any:
    return OUTCOME.at(shard=0, workspace=WORKSPACE, invocation_id="inv_1")


async def test_what_may_have_been_sent_before_is_stored_before_it_is_told(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        await gateway.call(msgspec.structs.replace(first(), first=False))
        answer = await gateway.hear(CallAnswered)
        assert answer.reply.stored
        assert [each.message for each in await bus.all(_outcomes())] == [answer.reply.outcome]
        told = await gateway.hear(SlotsTold)  # its slot became free after the answer
        assert (told.free, told.seen) == (1, 1)


async def test_refuses_what_finds_no_slot_and_tells_when_there_is_one(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def held(peer: Peer) -> None:
        await peer.greet()
        while True:
            header, body = await peer.receive()
            if header["type"] == "run":
                await release.wait()
                peer.answer(header, body)

    async with linked(bus, tmp_path, ScriptedBackend(held)) as (gateway, _):
        await rest.bound()
        await gateway.call(first())
        await gateway.call(first(invocation_id="inv_2"))
        refused = await gateway.hear(CallRefused)
        assert (refused.invocation_id, refused.reason) == ("inv_2", "full")
        assert (refused.slots.free, refused.slots.seen) == (0, 2)
        await gateway.call(first(invocation_id="inv_3"), container_id="ctr_9")
        assert (await gateway.hear(CallRefused)).slots.closed
        release.set()
        assert (await gateway.hear(CallAnswered)).slots.free == 1


async def test_another_deployments_or_workspaces_call_is_refused(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        for changes in ({"deployment_id": "dep_other"}, {"workspace": "other"}):
            await gateway.call(first(**changes))
            assert (await gateway.hear(CallRefused)).reason == "unknown"


async def test_the_shard_hears_what_runs_and_that_it_ended(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    release, began = asyncio.Event(), []

    async def held(peer: Peer) -> None:
        await peer.greet()
        while True:
            header, body = await peer.receive()
            if header["type"] == "run":
                await release.wait()
                peer.answer(header, body)

    async def on_began(delivery: Any) -> None:
        began.append(delivery.message)

    await bus.listen(BEGAN.pattern(), on_began)
    async with linked(bus, tmp_path, ScriptedBackend(held)) as (gateway, _):
        await rest.bound()
        await gateway.call(first())
        await eventually(lambda: began)
        assert began == [AttemptsBegan(container_id="ctr_1", invocation_ids=("inv_1",), peak=1)]
        assert rest.ended == []
        release.set()
        await eventually(lambda: rest.ended)
        assert rest.ended[0].invocation_ids == ("inv_1",)


async def test_what_was_printed_is_not_overtaken_by_the_answer(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def chatty(peer: Peer) -> None:
        await peer.greet()
        while True:
            header, body = await peer.receive()
            if header["type"] == "run":
                peer.send(frames.Log(stream="stdout", id=header["id"], at=1.0), b"hello\n")
                peer.answer(header, body)

    async with linked(bus, tmp_path, ScriptedBackend(chatty)) as (gateway, _):
        await rest.bound()
        await gateway.call(first())
        await eventually(lambda: rest.replies)
        assert [type(each).__name__ for each in rest.order] == ["LogSegment", "Reply"]


async def test_a_cancel_through_the_link_stops_the_call(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def patient(peer: Peer) -> None:
        await peer.greet()
        header: dict[str, Any] = {}
        while True:
            got, _ = await peer.receive()
            if got["type"] == "run":
                header = got
            elif got["type"] == "cancel":
                peer.fail(header, code="invocation.cancelled")

    async with linked(bus, tmp_path, ScriptedBackend(patient)) as (gateway, _):
        await rest.bound()
        await gateway.call(first())
        await gateway.send(CallCancelled(invocation_id="inv_1"))
        answer = await gateway.hear(CallAnswered)
        assert answer.reply.outcome.outcomes[0].state is State.CANCELLED


async def test_a_draining_container_closes_its_room(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        assert (await gateway.hear(SlotsTold)).free == 1
        stop = StopContainer(container_id="ctr_1", generation=1, grace_s=1.0, reason="scaled_in")
        await bus.send(STOP.at(worker_id=WORKER), stop)
        assert (await gateway.hear(SlotsTold)).closed


async def test_dials_again_when_the_link_has_broken(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, links):
        await rest.bound()
        assert gateway.socket is not None
        await gateway.socket.close()

        async def again() -> bool:
            await links.keep()
            return gateway.links == 2

        await eventually(again)
        assert (await gateway.hear(SlotsTold)).free == 1


@pytest.mark.parametrize("data", [b"garbage", b"\x80"])
async def test_a_gateway_that_does_not_keep_to_the_words_is_left(
    bus: Any, rest: Any, tmp_path: Path, data: bytes
) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        assert gateway.socket is not None
        await gateway.socket.send_bytes(data)
        await eventually(lambda: gateway.socket is None or gateway.socket.closed)
