"""A worker for imagecache's tests: real layers, real commands, real commits; no isolation.

It starts what WANTED asks for by itself, as if it were placement too, and runs each command as a
process of the test with the variables that a build container would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId
from glowplug_contracts.messages.container import (
    CommitLayer,
    ContainerChanged,
    ContainerSpec,
    ContainerState,
    ContainerWanted,
    ExecEvent,
    ExecInContainer,
    ExecReply,
)
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.worker import ContainerView, WorkerBeat
from glowplug_contracts.streams import WANTED
from glowplug_contracts.subjects import COMMIT, CONTAINER, EXEC, EXEC_REPLY, WORKER_BEAT
from glowplug_runtime.bus import Bus, Delivery, Entry
from glowplug_runtime.clock import Clock
from glowplug_worker.images import LocalImages

WORKER = WorkerId("pretender")
BEAT_S = 0.2


class PretendWorker:
    """Attributes that tests set: `refuses` (what starts fail with), `dies` (how many starts end as
    soon as a command is given), `pythons`. `commands` are those that ran."""

    def __init__(self, bus: Bus, images: LocalImages, python: Path, directory: Path) -> None:
        self.pythons: tuple[str, ...] = ()
        self.refuses: RemoteError | None = None
        self.dies = 0
        self.commands: list[str] = []
        self.specs: dict[ContainerId, ContainerSpec] = {}
        self.started = 0
        self._envs: dict[ContainerId, dict[str, str]] = {}
        self._bus = bus
        self._images = images
        self._python = python
        self._directory = directory
        self._tasks: asyncio.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[PretendWorker]:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            heard = [
                await self._bus.bucket(WANTED).watch(self._on_wanted),
                await self._bus.listen(EXEC.at(worker_id=WORKER), self._on_exec),
                await self._bus.listen(COMMIT.at(worker_id=WORKER), self._on_commit),
            ]
            beating = tasks.create_task(self._keep_beating())
            try:
                yield self
            finally:
                beating.cancel()
                for subscription in heard:
                    await subscription.close()

    async def _keep_beating(self) -> None:
        number = 0
        while True:
            number += 1
            views = tuple(
                ContainerView(
                    container_id=container_id,
                    deployment_id=DeploymentId(""),
                    workspace=spec.workspace,
                    kind=spec.kind,
                    state=ContainerState.READY,
                    resources=spec.resources,
                )
                for container_id, spec in self.specs.items()
                if container_id in self._envs
            )
            beat = WorkerBeat(
                worker_id=WORKER,
                beat=number,
                started_at=0,
                host="pretended",
                image_host=self._images.host,
                cpu_millis=1000,
                memory_bytes=1 << 30,
                pythons=self.pythons,
                containers=views,
            )
            await self._bus.send(WORKER_BEAT.at(worker_id=WORKER), beat)
            await asyncio.sleep(BEAT_S)

    async def _on_wanted(self, entry: Entry[ContainerWanted]) -> None:
        container_id = ContainerId(entry.key)
        if entry.value is None:
            self.specs.pop(container_id, None)
            self._envs.pop(container_id, None)
            self._images.end_build(container_id)
        elif container_id not in self.specs:
            assert self._tasks is not None
            self.started += 1
            self.specs[container_id] = entry.value.spec
            self._tasks.create_task(self._start(container_id, entry.value.spec))

    async def _start(self, container_id: ContainerId, spec: ContainerSpec) -> None:
        if self.refuses is not None:
            await self._say(container_id, ContainerState.FAILED, self.refuses)
            return
        directory = self._directory / container_id
        directory.mkdir(parents=True)
        kit = await self._images.prepare_build(
            container_id, spec.workspace, spec.image_digest, directory, self._python, mounts=False
        )
        path = f"{self._python.parent}:{os.defpath}"
        self._envs[container_id] = {"PATH": path, "HOME": str(directory), **kit.env, **spec.env}
        await self._say(container_id, ContainerState.READY)

    async def _on_exec(self, delivery: Delivery[ExecInContainer]) -> None:
        request = delivery.message
        assert request is not None
        assert delivery.answer is not None
        assert self._tasks is not None
        await delivery.answer(ExecReply(accepted=True))
        if self.dies:
            self.dies -= 1
            await self._say(request.container_id, ContainerState.STOPPED)
            return
        self._tasks.create_task(self._run(request))

    async def _run(self, request: ExecInContainer) -> None:
        self.commands.append(request.argv[-1] if "pip" in request.argv else request.argv[4])
        process = await asyncio.create_subprocess_exec(
            *request.argv,
            env={**self._envs[request.container_id], **request.env},
            cwd=self._directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        number = 0
        to = EXEC_REPLY.at(instance=request.reply_to, exec_id=request.exec_id)
        while data := await process.stdout.read(65536):
            number += 1
            event = ExecEvent(exec_id=request.exec_id, number=number, kind="stdout", data=data)
            await self._bus.send(to, event)
        code = await process.wait()
        ended = ExecEvent(exec_id=request.exec_id, number=number + 1, kind="ended", exit_code=code)
        await self._bus.send(to, ended)

    async def _on_commit(self, delivery: Delivery[CommitLayer]) -> None:
        assert delivery.message is not None
        assert delivery.answer is not None
        message, container_id = delivery.message, delivery.message.container_id
        spec = self.specs[container_id]

        async def told(done: int, total: int) -> None:
            event = ExecEvent(
                exec_id=message.exec_id,
                number=0,
                kind="bytes",
                bytes_done=done,
                bytes_total=total,
            )
            to = EXEC_REPLY.at(instance=message.reply_to, exec_id=message.exec_id)
            await self._bus.send(to, event)

        committed = await self._images.commit(
            self._directory / container_id / "layer",
            delivery.message.parent,
            spec.base_python,
            spec.env,
            told=told,
        )
        await delivery.answer(committed)

    async def _say(
        self, container_id: ContainerId, state: ContainerState, error: RemoteError | None = None
    ) -> None:
        spec = self.specs[container_id]
        change = ContainerChanged(
            container_id=container_id,
            deployment_id=DeploymentId(""),
            worker_id=WORKER,
            workspace=spec.workspace,
            kind=spec.kind,
            state=state,
            at=Clock().unix(),
            reason="deleted" if state is ContainerState.STOPPED else "",
            error=error,
        )
        await self._bus.append(CONTAINER.at(deployment_id="-", container_id=container_id), change)
