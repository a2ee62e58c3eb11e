"""A platform around one gateway: a dispatcher with workers, an imagecache and a sandbox service, all fake.

They speak the real contracts over the real broker. `World.work` decides what an invocation's input ends
in; tests replace it, hold it back, or have the dispatcher lose things.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import msgspec
from aiohttp import web
from blake3 import blake3
from glowplug_contracts.ids import DeploymentId, Digest, InvocationId
from glowplug_contracts.messages.deployment import DeploymentSpec, FunctionKind, SourceRef
from glowplug_contracts.messages.dispatch import BacklogChanged, CallsKnown
from glowplug_contracts.messages.image import BuildProgress, EnsureAccepted
from glowplug_contracts.messages.invocation import (
    AttemptLost,
    Format,
    Input,
    InputOutcome,
    InvocationRequested,
    Outcome,
    Payload,
    Reply,
    State,
    StreamFrame,
)
from glowplug_contracts.messages.worker import ServiceBeat
from glowplug_contracts.subjects import (
    BACKLOG,
    CALL,
    CANCEL,
    ENSURE_IMAGE,
    IMAGE_PROGRESS,
    PROBE,
    REPLY,
    SERVICE_BEAT,
    STREAM_CREDIT,
)
from glowplug_gateway.service import open_gateway
from glowplug_gateway.settings import GatewaySettings
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.service import serve

TOKEN = "gp_local"
Work = Callable[[InvocationRequested, Input], Awaitable[InputOutcome]]


def ok(value: object, index: int = 0) -> InputOutcome:
    return InputOutcome(index=index, state=State.SUCCEEDED, result=as_json(value), run_ms=1.5)


def as_json(value: object) -> Payload:
    data = json.dumps(value).encode()
    return Payload(format=Format.JSON, data=data, size=len(data))


async def echo(_request: InvocationRequested, one: Input) -> InputOutcome:
    """The default work: the arguments are the result."""
    return InputOutcome(index=one.index, state=State.SUCCEEDED, result=one.args, run_ms=1.5)


class World:
    """What surrounds the gateway, and what it has seen."""

    def __init__(self, bus, tasks: asyncio.TaskGroup) -> None:
        self.bus = bus
        self.tasks = tasks
        self.work: Work = echo
        self.lose_attempts: set[int] = set()  # taken, and never heard of again
        self.report_lost: set[int] = set()  # taken, and reported as lost
        self.requests: list[InvocationRequested] = []
        self.known: set[InvocationId] = set()
        self.cancelled: list[InvocationId] = []
        self.credits: list[int] = []
        self.blobs: dict[str, bytes] = {}
        self.owners: set[tuple[str, str]] = set()  # workspace, blob
        self.kept: dict[str, str] = {}  # blob -> the longest lease asked for, or "forever"
        self.images: list = []
        self.image_error = None
        self.on_build = None  # what a build does while somebody waits for it

    async def open(self) -> None:
        await self.bus.take_work(CALL.pattern(shard=0), self.on_call, generation=1)
        await self.bus.listen(PROBE.at(shard=0), self.on_probe)
        await self.bus.listen(CANCEL.at(shard=0), self.on_cancel)
        await self.bus.listen(STREAM_CREDIT.pattern(), self.on_credit)
        await self.bus.listen(ENSURE_IMAGE.at(), self.on_ensure_image)

    async def on_call(self, delivery) -> None:
        request = delivery.message
        self.requests.append(request)
        self.known.add(request.invocation_id)
        await delivery.ack()
        if request.attempt in self.lose_attempts:
            self.known.discard(request.invocation_id)
        elif request.attempt in self.report_lost:
            lost = AttemptLost(
                invocation_id=request.invocation_id, attempt=request.attempt, cause="worker"
            )
            await self.reply(request, Reply(lost=lost))
        else:
            self.tasks.create_task(self.run(request))

    async def run(self, request: InvocationRequested) -> None:
        outcomes = [await self.work(request, one) for one in request.inputs]
        self.known.discard(request.invocation_id)
        await self.reply(
            request,
            Reply(
                outcome=Outcome(
                    invocation_id=request.invocation_id,
                    attempt=request.attempt,
                    outcomes=tuple(outcomes),
                )
            ),
        )

    async def frame(self, request: InvocationRequested, number: int, value: object) -> None:
        frame = StreamFrame(
            invocation_id=request.invocation_id,
            attempt=request.attempt,
            number=number,
            item=as_json(value),
        )
        await self.reply(request, Reply(frame=frame))

    async def reply(self, request: InvocationRequested, reply: Reply) -> None:
        to = REPLY.at(instance=request.reply_to, invocation_id=request.invocation_id)
        await self.bus.send(to, reply)

    async def on_probe(self, delivery) -> None:
        unknown = tuple(i for i in delivery.message.invocation_ids if i not in self.known)
        await delivery.answer(CallsKnown(unknown=unknown, settled=True, generation=1))

    async def on_cancel(self, delivery) -> None:
        self.cancelled.append(delivery.message.invocation_id)

    async def on_credit(self, delivery) -> None:
        self.credits.append(delivery.message.until)

    async def report(self, deployment_id: str, queued: int, in_flight: int = 0) -> None:
        report = BacklogChanged(
            deployment_id=DeploymentId(deployment_id), queued=queued, in_flight=in_flight
        )
        await self.bus.send(BACKLOG.at(deployment_id=deployment_id), report)

    async def on_ensure_image(self, delivery) -> None:
        asked = delivery.message
        self.images.append(asked.spec)
        await delivery.answer(EnsureAccepted(build_id="bld_1"))
        to = IMAGE_PROGRESS.at(instance=asked.reply_to, build_id="bld_1")
        say = [
            BuildProgress(build_id="bld_1", number=0, kind="step", text="pip install x"),
            BuildProgress(build_id="bld_1", number=1, kind="output", text="Collecting x"),
            BuildProgress(
                build_id="bld_1",
                number=2,
                kind="done",
                done=True,
                image_digest="" if self.image_error else "a" * 64,
                base_python=asked.spec.python_version,
                error=self.image_error,
            ),
        ]
        if self.on_build is not None:
            await self.on_build(asked)
        for progress in say:
            await self.bus.send(to, progress)

    # -- imagecache ---------------------------------------------------------------------------

    def store(self, data: bytes, owner: str = "default") -> Digest:
        digest = Digest(blake3(data).hexdigest())
        self.blobs[digest] = data
        self.owners.add((owner, digest))
        return digest

    async def on_blob(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer internal"
        digest = request.match_info["digest"]
        owner = request.headers["X-Workspace"]
        keep = request.headers.get("X-Keep-Seconds")
        if request.method == "PUT":
            keep = keep or "forever"
            data = await request.read()
            if blake3(data).hexdigest() != digest:
                return web.Response(status=422, text="the bytes have another digest")
            self.store(data, owner)
            self._keep(digest, keep)
            return web.Response()
        if digest not in self.blobs or (owner, digest) not in self.owners:
            return web.Response(status=404)
        if keep is not None and request.method == "HEAD":
            self._keep(digest, keep)
        return web.Response(body=self.blobs[digest])

    def _keep(self, digest: str, keep: str | None) -> None:
        before = self.kept.get(digest, "1")
        assert keep is not None
        assert keep == "forever" or 0 < int(keep) <= 90 * 86_400
        if "forever" in (keep, before):
            self.kept[digest] = "forever"
        else:
            self.kept[digest] = str(max(int(before), int(keep)))


@contextlib.asynccontextmanager
async def open_world(url: str, imagecache: str = "") -> AsyncIterator[World]:
    """Yield a world; `imagecache` is where the real one answers, if one does."""
    async with open_bus(url, instance="world") as bus, asyncio.TaskGroup() as tasks:
        world = World(bus, tasks)
        await world.open()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/blobs/{digest}", world.on_blob)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cache_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        beating = tasks.create_task(_beat(bus, imagecache or cache_url))
        try:
            yield world
        finally:
            beating.cancel()
            await runner.cleanup()


async def _beat(bus, cache_url: str) -> None:
    while True:
        for service in ("scheduler", "autoscaler", "worker", "imagecache", "sandbox"):
            beat = ServiceBeat(
                service=service,
                instance=f"{service}-1",
                ready=True,
                url=cache_url if service == "imagecache" else "",
            )
            await bus.send(SERVICE_BEAT.at(service=service, instance=beat.instance), beat)
        await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def open_gateway_service(url: str, tmp_path, instance: str = "gateway-1", **settings):
    """Yield the URL of a gateway in this process."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "internal").write_text("internal")
    told = GatewaySettings(
        port=0,
        grpc_port=settings.pop("grpc_port", -1),
        token_file=str(tmp_path / "token"),
        internal_token_file=str(tmp_path / "internal"),
        **settings,
    )
    ready = asyncio.get_running_loop().create_future()
    async with open_bus(url, instance=instance) as bus:
        running = asyncio.ensure_future(
            serve("gateway", told, instance, bus, open_gateway, on_ready=ready.set_result)
        )
        await asyncio.wait([ready, running], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await running
        shell = ready.result()
        try:
            yield shell.url
        finally:
            shell.stopping.set()
            await running


class Web:
    """A client of one gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    def __call__(self, method: str, path: str, *, token: str | None = TOKEN, **kw):
        headers = dict(kw.pop("headers", {}))
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self.session.request(method, self.url + path, headers=headers, **kw)

    async def json(self, method: str, path: str, status: int = 200, **kw):
        async with self(method, path, **kw) as response:
            body = await response.read()
            assert response.status == status, body
            return msgspec.json.decode(body)

    async def deploy(self, status: int = 200, ephemeral: bool = False, **spec):
        """Deploy; return the lines."""
        path = "/api/v1/deployments" + ("?ephemeral=1" if ephemeral else "")
        data = msgspec.json.encode(a_spec(**spec))
        async with self("POST", path, data=data) as response:
            body = await response.read()
            assert response.status == status, body
            return [msgspec.json.decode(line) for line in body.splitlines()]

    async def deployed(self, **spec) -> str:
        """Deploy; return the id."""
        last = (await self.deploy(**spec))[-1]
        return last["deployment"]["deployment_id"]

    async def call(self, deployment: str, *args, status: int = 200, headers=None, **kw):
        """Call with JSON arguments; return headers and body."""
        data = json.dumps({"args": args, "kwargs": kw}).encode()
        async with self(
            "POST",
            f"/api/v1/deployments/{deployment}/call",
            data=data,
            headers={"Glowplug-Format": "json"} | (headers or {}),
        ) as response:
            body = await response.read()
            assert response.status == status, body
            return response.headers, body


SOURCE = b"the source"


def a_spec(**changes) -> DeploymentSpec:
    fields = {
        "name": "greet",
        "kind": FunctionKind.ENDPOINT,
        "source": SourceRef(blob=Digest(blake3(SOURCE).hexdigest()), handler="app:greet"),
    }
    return DeploymentSpec(**(fields | changes))
