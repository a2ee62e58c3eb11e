"""A worker on a real broker, with runners that tests script or real ones in plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import ContainerId, Digest, ImageDigest, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import (
    BindContainer,
    ContainerKind,
    ContainerSpec,
    LayerCommitted,
)
from glowplug_contracts.messages.deployment import Resources, SourceRef
from glowplug_contracts.messages.dispatch import RunInvocation
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InvocationRequested,
    Payload,
    RemoteError,
    Reply,
    RetryPolicy,
)
from glowplug_runtime.bus import Bus
from glowplug_runtime.clock import Clock
from glowplug_worker import frames
from glowplug_worker.capacity import Offer
from glowplug_worker.door import Gateways, NoGateways
from glowplug_worker.images.kit import BuildKit
from glowplug_worker.networks import HostNetworks
from glowplug_worker.notices import Notices
from glowplug_worker.outbox import Outbox
from glowplug_worker.ports import (
    Answers,
    Bind,
    ChangedRoot,
    Evidence,
    Exit,
    Interpreter,
    LocalImage,
    Networks,
    Pushed,
    Room,
    StartPlan,
    pushed_unseen,
)
from glowplug_worker.service import WorkerService
from glowplug_worker.starting import ensure_sdk
from glowplug_worker.templates import Templates
from glowplug_worker.workshop import Changes, Workshop

WORKER = WorkerId("wrk_test")
WORKSPACE = WorkspaceId("default")
DEPLOYMENT = "dep_f"
GIB = 1024**3


# -- messages --------------------------------------------------------------------------------------


def a_spec(**changes: Any) -> ContainerSpec:
    """A function container without image or source."""
    base = ContainerSpec(
        kind=ContainerKind.FUNCTION,
        workspace=WORKSPACE,
        name="f",
        deployment_id=DEPLOYMENT,
        source=SourceRef(handler="app:f"),
        timeout_s=60.0,
    )
    return msgspec.structs.replace(base, **changes)


def a_binding(container_id: str = "ctr_1", generation: int = 1, **spec: Any) -> BindContainer:
    return BindContainer(
        container_id=ContainerId(container_id), generation=generation, spec=a_spec(**spec)
    )


def a_request(
    invocation_id: str = "inv_1",
    inputs: int = 1,
    *,
    attempt: int = 1,
    stream: bool = False,
    retry: RetryPolicy | None = None,
    data: bytes = b'{"args":[],"kwargs":{}}',
) -> InvocationRequested:
    return InvocationRequested(
        invocation_id=invocation_id,
        workspace=WORKSPACE,
        deployment_id=DEPLOYMENT,
        inputs=tuple(
            Input(index=each, args=Payload(format=Format.JSON, data=data, size=len(data)))
            for each in range(inputs)
        ),
        reply_to="gw",
        attempt=attempt,
        stream=stream,
        retry=retry or RetryPolicy(),
    )


def a_run(
    request: InvocationRequested, container_id: str = "ctr_1", generation: int = 1
) -> RunInvocation:
    return RunInvocation(
        shard=0,
        generation=generation,
        container_id=ContainerId(container_id),
        deployment_id=request.deployment_id,
        request=request,
        workspace=request.workspace,
    )


# -- ports -----------------------------------------------------------------------------------------


class NoAnswers:
    """No gateway is linked."""

    async def answer(self, instance: str, reply: Reply, room: Room | None = None) -> bool:
        return False

    async def task_ended(self, *_: Any) -> None:
        return

    def changed(self, rooms: Iterable[Room]) -> None:
        return


class MemoryBlobs:
    """Blobs in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[Digest, bytes] = {}
        self.kept_s: dict[Digest, float] = {}
        self.owners: set[tuple[str, Digest]] = set()

    async def get(self, digest: Digest, owner: WorkspaceId) -> bytes:
        if (owner, digest) not in self.owners:
            raise NotFoundError("image.not_found", f"no blob {digest}")
        return self.kept[digest]

    async def put(self, data: bytes, owner: WorkspaceId, keep_s: float = 0.0) -> Digest:
        digest = Digest(blake3(data).hexdigest())
        self.owners.add((owner, digest))
        self.kept[digest] = data
        self.kept_s[digest] = keep_s
        return digest


class FolderImages:
    """Sources and layers that tests laid into folders, by digest."""

    def __init__(self) -> None:
        self.sources: dict[str, Path] = {}
        self.layers: dict[str, LocalImage] = {}
        self.committed: list[Path] = []
        self.asked: list[str] = []
        self.failures: list[Exception] = []
        self.ready: list[str] = []
        self.lose: Callable[[Sequence[str]], None] = lambda _: None

    async def release(self, holder: str) -> None:
        """Nothing is held."""

    def started(self, holder: str) -> None:
        self.ready.append(holder)

    def listen(self, lost: Callable[[Sequence[str]], None]) -> None:
        self.lose = lost

    async def ensure(self, digest: ImageDigest, holder: str = "") -> LocalImage:
        self.asked.append(digest)
        if self.failures or digest not in self.layers:
            raise (
                self.failures.pop(0) if self.failures else NotFoundError("image.not_found", digest)
            )
        return self.layers[digest]

    async def ensure_source(self, digest: Digest, owner: WorkspaceId) -> Path:
        self.asked.append(digest)
        if self.failures:
            raise self.failures.pop(0)
        return self.sources[digest]

    async def prepare_build(
        self,
        container_id: str,
        workspace: str,
        parent: str,
        directory: Path,
        python: Path,
        *,
        mounts: bool,
    ) -> BuildKit:
        layer = directory / "layer"
        layer.mkdir()
        seen = "/layer" if mounts else str(layer)
        binds = (Bind(source=layer, target="/layer", writable=True),)
        return BuildKit(binds=binds, env={"GLOWPLUG_LAYER": seen})

    def end_build(self, container_id: str) -> None:
        return

    async def commit(
        self,
        directory: Path,
        parent: str,
        python_version: str,
        env: dict[str, str],
        changed: ChangedRoot | None = None,
        told: Pushed = pushed_unseen,
    ) -> LayerCommitted:
        assert changed is None, changed  # its builds have no roots to change
        self.committed.append(directory)
        files = [path for path in directory.rglob("*") if path.is_file()]  # noqa: ASYNC240
        size = sum(path.stat().st_size for path in files)
        await told(0, size)
        await told(size, size)
        return LayerCommitted(image_digest=ImageDigest("a" * 64), files=len(files))

    def digests(self) -> Sequence[ImageDigest]:
        return ()


class OnePython:
    """The interpreter that runs the tests."""

    def versions(self) -> Sequence[str]:
        return (f"{sys.version_info[0]}.{sys.version_info[1]}",)

    def find(self, version: str) -> Interpreter | None:
        if version not in ("", *self.versions()):
            return None
        executable = Path(os.path.realpath(sys.executable))
        return Interpreter(
            version=sys.version.split()[0], executable=executable, prefix=Path(sys.base_prefix)
        )


class PlainBackend:
    """Starts what the plan says as a plain process: enough for a real runner."""

    name = "plain"
    reason = "for tests"
    mounts = False

    def __init__(self) -> None:
        self.enforces: frozenset[Any] = frozenset()
        self.started: list[PlainContainer] = []

    async def start(self, plan: StartPlan) -> PlainContainer:
        process = await asyncio.create_subprocess_exec(
            *plan.command(plan.fds),
            pass_fds=plan.fds,
            env=plan.env,
            cwd=plan.cwd,
            start_new_session=True,
            stderr=asyncio.subprocess.DEVNULL,
        )
        container = PlainContainer(process)
        self.started.append(container)
        return container


class PlainContainer:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def evidence(self) -> Evidence:
        return Evidence()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def wait(self) -> Exit:
        code = await self._process.wait()
        return Exit(code=code) if code >= 0 else Exit(signal=-code)

    async def close(self) -> None:
        self.kill()
        await self._process.wait()


class Peer:
    """A scripted runner's side of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.heard: list[dict[str, Any]] = []

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        prefix = await self._reader.readexactly(8)
        header = await self._reader.readexactly(int.from_bytes(prefix[:4]))
        body = await self._reader.readexactly(int.from_bytes(prefix[4:]))
        decoded = msgspec.json.decode(header)
        self.heard.append(decoded)
        return decoded, body

    async def until(self, kind: str) -> tuple[dict[str, Any], bytes]:
        while True:
            header, body = await self.receive()
            if header["type"] == kind:
                return header, body

    def send(self, header: frames.FromRunner, body: bytes = b"") -> None:
        self._writer.write(frames.encode_frame(header, body))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def greet(self) -> None:
        """Do what every runner does until it takes work."""
        self.send(frames.Hello(pid=1, python="3.11.0"))
        await self.until("init")
        self.send(frames.Ready(phases={"import_s": 0.01, "on_start_s": 0.0}))

    def answer(self, run: dict[str, Any], body: bytes = b"null") -> None:
        self.send(
            frames.Result(
                id=run["id"], index=run["index"], state="succeeded", format="json", run_ms=1.0
            ),
            body,
        )

    def fail(self, run: dict[str, Any], code: str = "function.failed") -> None:
        error = RemoteError(code=code, type="ValueError", message="no")
        self.send(frames.Result(id=run["id"], index=run["index"], state="failed", error=error))

    def close(self) -> None:
        self._writer.close()


Script = Callable[[Peer], Awaitable[Exit | None]]


class ScriptedBackend:
    """Containers without a process: each runs `script`, whose return is the exit."""

    name = "scripted"
    reason = "for tests"
    mounts = True

    def __init__(self, script: Script) -> None:
        self.script = script
        self.enforces: frozenset[Any] = frozenset({"memory"})
        self.plans: list[StartPlan] = []
        self.started: list[ScriptedContainer] = []

    async def start(self, plan: StartPlan) -> ScriptedContainer:
        self.plans.append(plan)
        container = ScriptedContainer([os.dup(fd) for fd in plan.fds], self.script)
        self.started.append(container)
        return container


class ScriptedContainer:
    def __init__(self, fds: list[int], script: Script) -> None:
        self.killed = 0
        self.pid = os.getpid()
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(fds, script))

    async def _run(self, fds: list[int], script: Script) -> None:
        import socket

        peers = []
        for fd in fds:
            reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
            peers.append(Peer(reader, writer))
        exit_ = Exit(signal=9)
        try:
            said = await asyncio.gather(*(script(peer) for peer in peers))
            exit_ = next((each for each in said if each is not None), Exit(code=0))
        except asyncio.IncompleteReadError:
            exit_ = Exit(code=1)
        except asyncio.CancelledError:
            pass
        finally:
            for peer in peers:
                peer.close()
            if not self._ended.done():
                self._ended.set_result(exit_)

    def evidence(self) -> Evidence:
        return Evidence()

    def kill(self) -> None:
        self.killed += 1
        self._task.cancel()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def echo(peer: Peer) -> Exit | None:
    """A runner that answers every input with its arguments, and ends when asked."""
    await peer.greet()
    while True:
        header, body = await peer.receive()
        if header["type"] == "run":
            peer.answer(header, body)
        elif header["type"] == "stop":
            peer.send(frames.Bye())
            return Exit(code=0)


# -- the worker ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _open_worker(
    bus: Bus,
    directory: Path,
    backend: Any,
    *,
    offer: Offer | None = None,
    gateways: Gateways | None = None,
    answers: Answers | None = None,
    cancel_grace_s: float = 2.0,
    templates_of: Callable[[Any], Templates] | None = None,
    networks: Networks | None = None,
    images: Any = None,
) -> AsyncIterator[WorkerService]:
    """A worker whose loops run fast, with what it needs in memory."""
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - tests
    async with asyncio.TaskGroup() as tasks:

        def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
            return tasks.create_task(work, name=name)

        workshop = Workshop(
            worker_id=WORKER,
            bus=bus,
            clock=Clock(),
            spawn=spawn,
            backend=backend,
            pythons=OnePython(),
            images=images or FolderImages(),
            blobs=MemoryBlobs(),
            directory=directory,
            sdk=ensure_sdk(directory),
            changes=Changes(),
            facts=deque(),
            gateways=gateways or NoGateways(),
            answers=answers or NoAnswers(),
            notices=Notices(),
            outbox=Outbox(spawn),
            cancel_grace_s=cancel_grace_s,
            templates=None if templates_of is None else templates_of(spawn),
            networks=networks or HostNetworks(),
        )
        service = WorkerService(
            workshop,
            lambda _millis, _bytes: (
                offer or Offer(host="here", cpu_millis=64_000, memory_bytes=64 * GIB, gpus=())
            ),
            pool="default",
            started_at=1.0,
        )
        await service.listen()
        ticking = tasks.create_task(_keep_ticking(service))
        try:
            yield service
            await service.drain(0.0)
        finally:
            if workshop.templates is not None:
                await workshop.templates.close()
            ticking.cancel()


@contextlib.asynccontextmanager
async def open_worker(
    bus: Bus,
    directory: Path,
    backend: Any,
    *,
    offer: Offer | None = None,
    gateways: Gateways | None = None,
    answers: Answers | None = None,
    cancel_grace_s: float = 2.0,
    templates_of: Callable[[Any], Templates] | None = None,
    networks: Networks | None = None,
    images: Any = None,
) -> AsyncIterator[WorkerService]:
    """A worker in a task of its own, so that fixtures may hold it over their yield."""
    opened: asyncio.Future[WorkerService] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def live() -> None:
        async with _open_worker(
            bus,
            directory,
            backend,
            offer=offer,
            gateways=gateways,
            answers=answers,
            cancel_grace_s=cancel_grace_s,
            templates_of=templates_of,
            networks=networks,
            images=images,
        ) as service:
            opened.set_result(service)
            await stop.wait()

    living = asyncio.ensure_future(live())
    await asyncio.wait([living, opened], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not living.done():
            yield opened.result()
    finally:
        stop.set()
        await living


async def _keep_ticking(service: WorkerService) -> None:
    while True:
        await service.tick()
        await service.watch_memory()
        await asyncio.sleep(0.02)


def resources(**changes: Any) -> Resources:
    return Resources(**changes)
