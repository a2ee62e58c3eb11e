"""The door of a container, tried from inside: no other route, workspace, container or invocation.

The container is a hostile one (it speaks raw frames), the worker is real, and the gateway writes down what
reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from glowplug_contracts.inside import ANSWER_CREDIT_AT_FIRST, ASK_BYTES_MAX
from glowplug_contracts.messages.container import BindReply, ContainerChanged
from glowplug_contracts.subjects import BIND, CONTAINER, RUN
from glowplug_worker.asks import ASKS_MAX
from glowplug_worker.door import open_gateways
from glowplug_worker.frames import (
    BODY_BYTES_MAX,
    Ask,
    AskCredit,
    AskDrop,
    Hello,
    Ready,
    encode_frames,
)

from tests.support.builders_worker import (
    WORKER,
    Peer,
    ScriptedBackend,
    a_binding,
    a_request,
    a_run,
    open_worker,
)
from tests.support.eventually import eventually

WITHIN_S = 30
Answerer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
pytestmark = pytest.mark.attempt(control="test_the_control_a_listed_route_reaches_the_gateway")
TASK = "/api/v1/tasks/inv_1"
WHO = ("Glowplug-Inside-Workspace", "Glowplug-Inside-Container", "Glowplug-Inside-Deployment")


class Gateway:
    """Writes down what reaches it; answers TASK with what the test says."""

    def __init__(self) -> None:
        self.seen: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.dropped = 0
        self.answer: Answerer = self.say_ok

    async def say_ok(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"ok": True}, headers={"Set-Cookie": "a=b", "Server": "x"})

    async def on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.dropped += 1
            raise


class Inside:
    """The hostile container's side."""

    def __init__(self, peer: Peer, answers: dict[int, list[tuple[dict[str, Any], bytes]]]) -> None:
        self.peer = peer
        self.answers = answers

    async def ask(self, ask_id: int = 1, **fields: Any) -> tuple[int, bytes]:
        """Ask and return the whole answer."""
        body = fields.pop("body", b"")
        header = Ask(ask_id=ask_id, **({"method": "GET", "path": TASK} | fields))
        for frame in encode_frames(header, body):
            self.peer.send_raw(frame)
        return await self.answer(ask_id)

    async def answer(self, ask_id: int) -> tuple[int, bytes]:
        pieces: list[bytes] = []
        status = 0
        while True:
            header, body = await self.peer.until("answer")
            kept = self.answers.setdefault(header["ask_id"], [])
            kept.append((header, body))
            done = [one for one in self.answers.get(ask_id, ()) if not one[0].get("more")]
            if done:
                status = self.answers[ask_id][0][0]["status"]
                pieces = [body for _, body in self.answers[ask_id]]
                return status, b"".join(pieces)


Script = Callable[[Inside], Awaitable[None]]


class Scene:
    def __init__(self, gateway: Gateway, bus: Any) -> None:
        self.gateway = gateway
        self.bus = bus
        self.changes: list[ContainerChanged] = []
        self.failure: BaseException | None = None
        self.over = asyncio.Event()

    async def played(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self.over.wait()
        assert self.failure is None, repr(self.failure)

    @property
    def states(self) -> list[str]:
        return [one.state.value for one in self.changes]


@contextlib.asynccontextmanager
async def scene(
    bus: Any, directory: Path, script: Script, answer: Answerer | None = None
) -> AsyncIterator[Scene]:
    gateway = Gateway()
    gateway.answer = answer or gateway.say_ok
    shown = Scene(gateway, bus)

    async def run(peer: Peer) -> None:
        peer.send(Hello(pid=1, python="3.11.0"))
        await peer.until("init")
        peer.send(Ready())
        try:
            await script(Inside(peer, {}))
        except Exception as error:  # noqa: BLE001 - shown by the test
            shown.failure = error
        finally:
            shown.over.set()
        await peer.until("never")

    async def on_change(delivery: Any) -> None:
        shown.changes.append(delivery.message)

    await bus.listen(CONTAINER.pattern(), on_change)

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        loop = asyncio.get_running_loop()
        size = 1 << 30
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=size)

    server = web.Server(gateway.on_request, request_factory=make_request, handler_cancellation=True)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with (
            open_gateways("internal", lambda: [url]) as gateways,
            open_worker(bus, directory, ScriptedBackend(run), gateways=gateways),
        ):
            reply = await bus.request(
                BIND.at(worker_id=WORKER), a_binding(), BindReply, timeout_s=5
            )
            assert reply.accepted
            yield shown
    finally:
        await runner.cleanup()


async def played(bus: Any, directory: Path, script: Script) -> Gateway:
    """Play a script to its end; return what the gateway saw."""
    async with scene(bus, directory, script) as shown:
        await shown.played()
        assert "failed" not in shown.states
        return shown.gateway


async def ends(bus: Any, directory: Path, script: Script) -> None:
    """Play a script that must end the container."""

    async def play(inside: Inside) -> None:
        await script(inside)
        await inside.peer.until("never")

    async with scene(bus, directory, play) as shown:
        await eventually(lambda: "failed" in shown.states, what="the container to fail")
        assert not shown.gateway.seen


async def test_the_control_a_listed_route_reaches_the_gateway(bus, tmp_path):
    async def script(inside: Inside) -> None:
        assert await inside.ask(path=TASK + "?wait_s=1") == (200, b'{"ok": true}')
        header = inside.answers[1][0][0]
        assert set(header["headers"]) == {"content-type"}

    gateway = await played(bus, tmp_path, script)
    request = gateway.seen[0]
    assert request.headers["Authorization"] == "Bearer internal"
    assert request.headers["Glowplug-Inside-Workspace"] == "default"
    assert request.headers["Glowplug-Inside-Container"] == "ctr_1"
    assert request.headers["Glowplug-Inside-Deployment"] == a_binding().spec.deployment_id
    assert "Glowplug-Inside-Parent" not in request.headers
    assert request.rel_url.raw_path_qs == TASK + "?wait_s=1"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/tokens"),
        ("GET", "/api/v1/deployments"),
        ("DELETE", "/api/v1/deployments/greet"),
        ("GET", "/api/v1/logs"),
        ("GET", "/api/v1/tasks/../deployments"),
        ("GET", "@127.0.0.1:1/api/v1/tasks/x"),
        ("CONNECT", "127.0.0.1:1"),
    ],
)
async def test_no_other_route_is_reached(bus, tmp_path, method, path):
    async def script(inside: Inside) -> None:
        status, body = await inside.ask(method=method, path=path)
        assert status == 403
        assert msgspec.json.decode(body)["error"]["code"] == "auth.forbidden"

    assert (await played(bus, tmp_path, script)).seen == []


async def test_no_workspace_container_or_credential_can_be_forged(bus, tmp_path):
    forged = dict.fromkeys(WHO, "other") | {
        "glowplug-inside-parent": "inv_other",
        "Authorization": "Bearer stolen",
        "authorization": "Bearer stolen",
        "Host": "elsewhere",
        "Cookie": "a=b",
        "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    }

    async def script(inside: Inside) -> None:
        assert (await inside.ask(headers=forged))[0] == 200

    request = (await played(bus, tmp_path, script)).seen[0]
    assert request.headers.getall("Authorization") == ["Bearer internal"]
    assert request.headers.getall("Glowplug-Inside-Workspace") == ["default"]
    assert request.headers.getall("Glowplug-Inside-Container") == ["ctr_1"]
    assert "elsewhere" not in request.headers.getall("Host")
    for name in ("Glowplug-Inside-Parent", "Cookie", "traceparent"):
        assert name not in request.headers


async def test_a_parent_is_believed_only_where_it_runs(bus, tmp_path):
    running = asyncio.Event()

    async def script(inside: Inside) -> None:
        header, _ = await inside.peer.until("run")
        running.set()
        assert (await inside.ask(1, id=header["id"]))[0] == 200
        assert (await inside.ask(2, id="inv_01M80WT6TN2GZENTD265ATBR21"))[0] == 200

    async with scene(bus, tmp_path, script) as shown:
        await eventually(lambda: "ready" in shown.states, what="the container to be ready")
        message = a_run(a_request("inv_01M80WT6TN2GZENTD265ATBR20"))
        await bus.send(RUN.at(worker_id=WORKER), message)
        await shown.played()
        first, second = shown.gateway.seen
        assert first.headers["Glowplug-Inside-Parent"] == message.request.invocation_id
        assert "Glowplug-Inside-Parent" not in second.headers


@pytest.mark.parametrize(
    "headers", [{"Glowplug-Format": "a\r\nGlowplug-Inside-Workspace: other"}, {"A B": "c"}]
)
async def test_a_header_that_is_none_ends_the_container(bus, tmp_path, headers):
    async def script(inside: Inside) -> None:
        inside.peer.send(Ask(ask_id=1, method="GET", path=TASK, headers=headers))

    await ends(bus, tmp_path, script)


async def test_a_body_beyond_the_bound_ends_the_container(bus, tmp_path):
    async def script(inside: Inside) -> None:
        header = Ask(ask_id=1, method="POST", path="/api/v1/deployments/x/call", more=True)
        for _ in range(ASK_BYTES_MAX // BODY_BYTES_MAX + 1):
            inside.peer.send(header, b"x" * BODY_BYTES_MAX)

    await ends(bus, tmp_path, script)


async def test_bodies_arrive_whole(bus, tmp_path):
    body = bytes(range(256)) * 10_000

    async def script(inside: Inside) -> None:
        asked = {"method": "POST", "path": "/api/v1/deployments/x/call"}
        assert (await inside.ask(body=body, **asked))[0] == 200

    assert (await played(bus, tmp_path, script)).bodies == [body]


async def test_requests_in_flight_are_bounded(bus, tmp_path):
    held = asyncio.Event()

    async def script(inside: Inside) -> None:
        for number in range(1, ASKS_MAX + 1):
            inside.peer.send(Ask(ask_id=number, method="GET", path=TASK))
        status, body = await inside.ask(ASKS_MAX + 1)
        assert status == 429
        assert b"container.too_many_requests" in body
        held.set()
        assert (await inside.answer(1))[0] == 200

    async def hold(_request: web.BaseRequest) -> web.StreamResponse:
        await held.wait()
        return web.json_response({})

    async with scene(bus, tmp_path, script, hold) as shown:
        await shown.played()
        assert len(shown.gateway.seen) <= ASKS_MAX


async def test_an_answer_nobody_takes_stops_at_its_credit(bus, tmp_path):
    size = 4 * ANSWER_CREDIT_AT_FIRST

    async def script(inside: Inside) -> None:
        inside.peer.send(Ask(ask_id=1, method="GET", path=TASK))
        got = 0
        while got < ANSWER_CREDIT_AT_FIRST:
            header, body = await inside.peer.until("answer")
            assert header.get("more")
            got += len(body)
        assert got == ANSWER_CREDIT_AT_FIRST
        # Another request is answered meanwhile, and nothing of the first comes in between.
        assert (await inside.ask(2, path=TASK + "x"))[0] == 200
        assert list(inside.answers) == [2]
        inside.peer.send(AskCredit(ask_id=1, until=size))
        while got < size:
            got += len((await inside.peer.until("answer"))[1])

    async def much(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x" * (size if request.path == TASK else 1))

    async with scene(bus, tmp_path, script, much) as shown:
        await shown.played()


async def test_answers_that_nobody_reads_do_not_pile_up(bus, tmp_path, monkeypatch):
    monkeypatch.setattr("glowplug_worker.runners.UNREAD_BYTES_MAX", 1 << 20)

    async def script(inside: Inside) -> None:
        # Each is refused, and its refusal waits in the worker: this side never reads.
        for number in range(20_000):
            inside.peer.send(Ask(ask_id=number, method="GET", path="/api/v1/tokens"))
        await asyncio.Event().wait()

    await ends(bus, tmp_path, script)


async def test_a_request_that_is_dropped_is_let_go_at_the_gateway(bus, tmp_path):
    arrived = asyncio.Event()

    async def script(inside: Inside) -> None:
        inside.peer.send(Ask(ask_id=1, method="GET", path=TASK))
        await arrived.wait()
        inside.peer.send(AskDrop(ask_id=1))
        inside.peer.send(AskDrop(ask_id=1))
        inside.peer.send(AskCredit(ask_id=99, until=5))

    async def hold(_request: web.BaseRequest) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    async with scene(bus, tmp_path, script, hold) as shown:
        await eventually(lambda: shown.gateway.dropped == 1, what="the gateway to be let go")
        assert "failed" not in shown.states
