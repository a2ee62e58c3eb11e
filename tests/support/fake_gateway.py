"""The HTTP table as the SDK sees it, in memory: enough gateway to test the SDK without a platform.

Functions run in a subprocess that has only the uploaded source and the SDK, as a container would.
Knobs break connections, refuse, or hold answers back. It runs in a thread of its own, because the SDK
blocks its caller.
"""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from blake3 import blake3
from glowplug.client.wire import frame
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.messages.deployment import DeploymentSpec
from glowplug_contracts.messages.http import FRAMES_TYPE, MapRequest, StreamItem
from glowplug_contracts.messages.invocation import Format, InputOutcome, Payload, RemoteError, State

ROOT = Path(__file__).parents[2]
SDK = ROOT / "sdk"
CONTAINER = Path(__file__).with_name("fake_container.py")
TOKEN = "fake-token"


class FakeGateway:
    """What it holds and what it was asked; tests read and turn it from their own thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.blobs: dict[str, bytes] = {}
        self.specs: dict[str, DeploymentSpec] = {}
        self.deployments: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.calls: list[dict[str, Any]] = []
        self.batches: list[MapRequest] = []
        self.cancelled: list[str] = []
        self.tasks: dict[str, tuple[str, bytes]] = {}
        self.puts: list[str] = []
        self.ended: dict[str, web.Response] = {}
        self.marks: list[str] = []
        self.log_lines: list[dict[str, Any]] = []
        self.break_next = 0
        self.full_next = 0
        self.late_next = 0
        self.break_map_after: int | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.python_there = ""
        self.errors: dict[str, RemoteError] = {}
        self.build_events: list[dict[str, Any]] = []
        self.build_error: dict[str, Any] | None = None
        self.exec_events: list[dict[str, Any]] = []
        self.sandboxes: dict[str, dict[str, Any]] = {}
        self._followers: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self._containers: dict[str, Container] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- what tests ask

    def count(self, method: str, suffix: str) -> int:
        """Return how many requests of this kind came."""
        return sum(m == method and p.endswith(suffix) for m, p in self.requests)

    def log(self, text: str, stream: str = "stdout") -> None:
        """Have every follower hear a line."""
        line = {"at": 0.0, "stream": stream, "text": text, "name": "f"}
        assert self._loop is not None
        for queue in list(self._followers.values()):
            self._loop.call_soon_threadsafe(queue.put_nowait, line)

    # -- the application

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=200 * 1024 * 1024)
        route = app.router.add_route
        route("GET", "/health", self._health)
        route("*", "/api/v1/blobs/{digest}", self._blob)
        route("POST", "/api/v1/images", self._build)
        route("POST", "/api/v1/deployments", self._deploy)
        route("GET", "/api/v1/deployments", self._list)
        route("GET", "/api/v1/deployments/{id}", self._show)
        route("POST", "/api/v1/deployments/{id}/call", self._call)
        route("POST", "/api/v1/deployments/{id}/map", self._map)
        route("POST", "/api/v1/deployments/{id}/spawn", self._spawn)
        route("DELETE", "/api/v1/calls/{id}", self._cancel)
        route("GET", "/tasks/{id}/status", self._task_status)
        route("DELETE", "/tasks/{id}", self._cancel)
        route("GET", "/api/v1/tasks/{id}/result", self._task_result)
        route("GET", "/api/v1/tasks", self._tasks)
        route("GET", "/api/v1/logs", self._logs)
        route("POST", "/api/v1/logs/marks/{tag}", self._mark)
        route("GET", "/api/v1/traces/{id}", self._trace)
        route("GET", "/api/v1/containers", self._list_containers)
        route("POST", "/api/v1/sandboxes", self._create_sandbox)
        route("GET", "/api/v1/sandboxes/{id}", self._show_sandbox)
        route("DELETE", "/api/v1/sandboxes/{id}", self._end_sandbox)
        route("POST", "/api/v1/sandboxes/{id}/exec", self._exec)
        route("POST", "/endpoint/{name}", self._http_call)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if request.path != "/health" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refusal(401, "auth.bad_token", "unknown token")
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"ready": True, "parts": {"gateway": "ok"}})

    async def _blob(self, request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if request.method == "PUT":
            data = await request.read()
            assert blake3(data).hexdigest() == digest
            self.blobs[digest] = data
            return web.Response(status=201)
        if digest not in self.blobs:
            return web.Response(status=404)
        return web.Response(body=self.blobs[digest] if request.method == "GET" else b"")

    async def _build(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.build_events:
            await write_line(response, event)
        digest = {"event": "built", "image_digest": "a" * 64, "python": self.python_there}
        await write_line(response, digest)
        return response

    async def _deploy(self, request: web.Request) -> web.StreamResponse:
        spec = decode(await request.read(), DeploymentSpec, "json")
        ephemeral = request.query["ephemeral"] == "1"
        number = len(self.specs) + 1
        deployment_id = f"dep_{number:026d}"
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.build_events:
            await write_line(response, event)
        if self.build_error is not None:
            await write_line(response, {"event": "error", "error": self.build_error})
            return response
        self.specs[deployment_id] = spec
        version = 0 if ephemeral else 1 + sum(d["name"] == spec.name for d in self.deployments)
        shown = {
            "deployment_id": deployment_id,
            "name": spec.name,
            "version": version,
            "kind": spec.kind.value,
            "state": "active",
            "base_python": self.python_there,
        }
        if not ephemeral:
            self.deployments.append(shown)
        event = {
            "event": "deployed",
            "deployment": shown,
            "url": f"{self.url}/{spec.kind.value}/{spec.name}",
        }
        await write_line(response, event)
        return response

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"deployments": self.deployments})

    async def _show(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        for shown in reversed(self.deployments):
            if wanted in {shown["name"], shown["deployment_id"]}:
                return web.json_response(shown)
        return refusal(404, "deployment.not_found", f"no deployment {wanted}")

    async def _call(self, request: web.Request) -> web.StreamResponse:
        invocation = request.headers["Glowplug-Invocation-Id"]
        self.calls.append({"id": invocation, "headers": dict(request.headers)})
        if self.full_next:
            self.full_next -= 1
            return refusal(429, "invocation.queue_full", "full", retry_after_s=0.01)
        if self.late_next:
            self.late_next -= 1
            return refusal(504, "invocation.deadline", "too late")
        if self.break_next:
            self.break_next -= 1
            request.transport.close()
            return web.Response()
        await asyncio.to_thread(self.hold.wait)
        deployment_id = request.match_info["id"]
        data = await self._body(request)
        if request.headers.get("Glowplug-Stream"):
            return await self._stream(request, deployment_id, data)
        if invocation not in self.ended:
            (outcome,) = await self._run(deployment_id, [(0, data)])
            self.ended[invocation] = outcome
        return self._answer(self.ended[invocation])

    async def _stream(
        self, request: web.Request, deployment_id: str, data: bytes
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": FRAMES_TYPE})
        await response.prepare(request)
        for outcome in await self._run(deployment_id, [(0, data)], stream=True):
            item = StreamItem(kind="item", item=outcome.result)
            if outcome.error is not None:
                item = StreamItem(kind="error", error=outcome.error)
            await response.write(frame(encode(item, "msgpack")))
        await response.write(frame(encode(StreamItem(kind="end"), "msgpack")))
        return response

    async def _map(self, request: web.Request) -> web.StreamResponse:
        batch = decode(await request.read(), MapRequest, "msgpack")
        self.batches.append(batch)
        await asyncio.to_thread(self.hold.wait)
        inputs = [
            (one.index, one.args.data or self.blobs[str(one.args.blob)]) for one in batch.inputs
        ]
        response = web.StreamResponse(headers={"Content-Type": FRAMES_TYPE})
        await response.prepare(request)
        for outcome in await self._run(request.match_info["id"], inputs):
            if self.break_map_after == 0:
                self.break_map_after = None
                request.transport.close()
                return response
            if self.break_map_after is not None:
                self.break_map_after -= 1
            await response.write(frame(encode(outcome, "msgpack")))
        return response

    async def _spawn(self, request: web.Request) -> web.Response:
        if self.full_next:
            self.full_next -= 1
            return refusal(429, "invocation.queue_full", "full", retry_after_s=0.01)
        task_id = request.headers["Glowplug-Invocation-Id"]
        self.puts.append(task_id)
        if self.break_next:
            self.break_next -= 1
            request.transport.close()
            return web.Response()
        self.tasks[task_id] = (request.match_info["id"], await self._body(request))
        return web.json_response({"task_id": task_id}, status=202)

    async def _task_status(self, request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        if task_id not in self.tasks:
            return refusal(404, "invocation.not_found", f"no task {task_id}")
        if task_id in self.cancelled:
            return web.json_response({"task_id": task_id, "state": "cancelled"})
        state = "completed" if task_id in self.ended else "pending"
        return web.json_response({"task_id": task_id, "state": state})

    async def _task_result(self, request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        if task_id not in self.tasks:
            return refusal(404, "invocation.not_found", f"no task {task_id}")
        if task_id in self.cancelled:
            return web.Response(headers={"Glowplug-State": "cancelled"})
        if not self.hold.is_set():
            return web.json_response({"state": "pending"}, status=202)
        if task_id not in self.ended:
            (outcome,) = await self._run(self.tasks[task_id][0], [(0, self.tasks[task_id][1])])
            self.ended[task_id] = outcome
        return self._answer(self.ended[task_id])

    async def _tasks(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"tasks": [{"task_id": one, "state": "pending"} for one in self.tasks]}
        )

    async def _cancel(self, request: web.Request) -> web.Response:
        self.cancelled.append(request.match_info["id"])
        return web.Response(status=204)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.query.get("follow") != "1":
            for line in self.log_lines:
                await write_line(response, line)
            return response
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._followers[request.query["tag"]] = queue
        while True:
            await write_line(response, await queue.get())

    async def _mark(self, request: web.Request) -> web.Response:
        self.marks.append(request.query["mark"])
        self._followers[request.match_info["tag"]].put_nowait({"mark": request.query["mark"]})
        return web.Response(status=204)

    async def _trace(self, request: web.Request) -> web.Response:
        base = {"trace_id": "a" * 32, "service": "gateway", "error": "", "attributes": {}}
        root = {
            **base,
            "span_id": "1" * 16,
            "parent_id": "",
            "name": "call",
            "start_at": 10.0,
            "end_at": 10.5,
        }
        inner = {
            **base,
            "span_id": "2" * 16,
            "parent_id": "1" * 16,
            "name": "run",
            "start_at": 10.1,
            "end_at": 10.4,
        }
        return web.json_response({"trace_id": "a" * 32, "spans": [inner, root]})

    async def _list_containers(self, request: web.Request) -> web.Response:
        shown = {"container_id": "ctr_1", "name": "f", "state": "ready", "in_flight": 1}
        return web.json_response({"containers": [shown]})

    async def _create_sandbox(self, request: web.Request) -> web.StreamResponse:
        sandbox_id = f"sbx_{len(self.sandboxes) + 1:026d}"
        self.sandboxes[sandbox_id] = {"sandbox_id": sandbox_id, "state": "running"}
        response = web.StreamResponse()
        await response.prepare(request)
        await write_line(response, {"event": "created", "sandbox": self.sandboxes[sandbox_id]})
        return response

    async def _show_sandbox(self, request: web.Request) -> web.Response:
        found = self.sandboxes.get(request.match_info["id"])
        if found is None:
            return refusal(404, "sandbox.not_found", "no such sandbox")
        return web.json_response(found)

    async def _end_sandbox(self, request: web.Request) -> web.Response:
        self.sandboxes[request.match_info["id"]]["state"] = "terminated"
        return web.Response(status=204)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(await request.json())
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.exec_events:
            await write_line(response, event)
        return response

    async def _http_call(self, request: web.Request) -> web.Response:
        arguments = await request.json()
        return web.json_response({"name": request.match_info["name"], "got": arguments})

    # -- running

    async def _body(self, request: web.Request) -> bytes:
        data = await request.read()
        return data or self.blobs[request.headers["Glowplug-Blob"]]

    async def _run(
        self, deployment_id: str, inputs: list[tuple[int, bytes]], *, stream: bool = False
    ) -> list[InputOutcome]:
        spec = self.specs[deployment_id]
        if spec.name in self.errors:
            error = self.errors[spec.name]
            return [InputOutcome(index=i, state=State.FAILED, error=error) for i, _ in inputs]
        process = self._process(deployment_id, spec)
        order = msgspec.msgpack.encode(
            {"stream": stream, "inputs": [[index, data] for index, data in inputs]}
        )
        answer = await asyncio.to_thread(process.ask, order)
        outcomes = msgspec.msgpack.decode(answer, type=list[InputOutcome])
        return [self._stored(outcome) for outcome in outcomes]

    def _process(self, deployment_id: str, spec: DeploymentSpec) -> Container:
        if deployment_id not in self._containers:
            source = self._source(deployment_id, spec)
            setup = {
                "handler": spec.source.handler,
                "pickled": self.blobs.get(str(spec.source.pickled), b""),
                "source": str(source),
                "sdk": str(SDK),
            }
            self._containers[deployment_id] = Container(source, msgspec.msgpack.encode(setup))
        return self._containers[deployment_id]

    def stop(self) -> None:
        """End the processes."""
        for container in self._containers.values():
            container.stop()

    def _stored(self, outcome: InputOutcome) -> InputOutcome:
        data = outcome.result.data if outcome.result else None
        if data is None or len(data) <= 256 * 1024:
            return outcome
        digest = blake3(data).hexdigest()
        self.blobs[digest] = data
        payload = Payload(format=Format.PICKLE, blob=digest, size=len(data))
        return msgspec.structs.replace(outcome, result=payload)

    def _source(self, deployment_id: str, spec: DeploymentSpec) -> Path:
        folder = self.folder / deployment_id
        if not folder.exists():
            folder.mkdir(parents=True)
            if spec.source.blob is not None:
                zipfile.ZipFile(io.BytesIO(self.blobs[spec.source.blob])).extractall(folder)
        return folder

    def _answer(self, outcome: InputOutcome) -> web.Response:
        headers = {"Glowplug-State": outcome.state.value, "Glowplug-Run-Ms": str(outcome.run_ms)}
        if outcome.error is not None:
            return web.Response(body=encode(outcome.error, "msgpack"), headers=headers)
        assert outcome.result is not None
        headers["Glowplug-Format"] = outcome.result.format.value
        if outcome.result.blob is not None:
            headers["Glowplug-Blob"] = outcome.result.blob
            return web.Response(headers=headers)
        return web.Response(body=outcome.result.data, headers=headers)


class Container:
    """One process that runs one deployment's function, one order after the other."""

    def __init__(self, source: Path, setup: bytes) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(CONTAINER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=source,
        )
        self._write(setup)

    def ask(self, order: bytes) -> bytes:
        with self._lock:
            self._write(order)
            assert self._process.stdout is not None
            size = int.from_bytes(self._process.stdout.read(4))
            return self._process.stdout.read(size)

    def stop(self) -> None:
        self._process.communicate()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(len(data).to_bytes(4) + data)
        self._process.stdin.flush()


@contextmanager
def open_fake_gateway(folder: Path) -> Iterator[FakeGateway]:
    """Serve a fake gateway on a free port, in a thread, while the block runs."""
    fake = FakeGateway(folder)
    loop = asyncio.new_event_loop()
    fake._loop = loop
    ready = threading.Event()
    runner = web.AppRunner(fake.app(), shutdown_timeout=0.1, handler_cancellation=True)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        fake.url = f"http://127.0.0.1:{port}"

    def serve() -> None:
        loop.run_until_complete(start())
        loop.call_soon(ready.set)  # inside run_forever: a stop before it would be forgotten
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait()
    try:
        yield fake
    finally:
        fake.hold.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        fake.stop()


def refusal(status: int, code: str, message: str, **more: Any) -> web.Response:
    """Return an error as the gateway writes it."""
    error = {"code": code, "message": message, "details": {}, "retry_after_s": None, **more}
    return web.json_response({"error": error}, status=status)


async def write_line(response: web.StreamResponse, value: dict[str, Any]) -> None:
    """Write one line of JSON."""
    await response.write(json.dumps(value).encode() + b"\n")


def repeats(ids: list[str]) -> list[str]:
    """Return the ids that occur more than once."""
    return [one for one, times in Counter(ids).items() if times > 1]
