"""A worker that runs nothing: it answers on the bus as a real one does, and the test decides the rest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import ContainerId, InvocationId, WorkerId
from glowplug_contracts.messages.container import BindReply, ContainerChanged, ContainerState
from glowplug_contracts.messages.dispatch import AttemptEnded, AttemptRefused, RunInvocation
from glowplug_contracts.messages.invocation import State, is_terminal
from glowplug_contracts.messages.record import InvocationRecord, ordered_by, record_headers
from glowplug_contracts.messages.worker import ContainerView, WorkerBeat
from glowplug_contracts.subjects import (
    BIND,
    CANCEL_ATTEMPT,
    CONTAINER,
    ENDED,
    RECORD,
    REFUSED,
    RUN,
    SHARD_OWNED,
    STOP,
    WORKER_BEAT,
)
from glowplug_runtime.bus_nats import NatsBus, open_bus
from glowplug_runtime.wire import WireError

GIB = 1024**3


class FakeWorker:
    """What it got, for tests to look at; `bind_reason` makes it refuse containers."""

    def __init__(self, bus: NatsBus, worker_id: str, cpu_millis: int = 4000) -> None:
        self.bus = bus
        self.worker_id = WorkerId(worker_id)
        self.cpu_millis = cpu_millis
        self.beat = 0
        self.bind_reason = ""
        self.becomes_ready = True
        self.runs: list[RunInvocation] = []
        self.bound: dict[ContainerId, object] = {}
        self.views: dict[ContainerId, ContainerView] = {}
        self.stopped: list[object] = []
        self.cancelled: list[InvocationId] = []

    async def listen(self) -> None:
        me = {"worker_id": self.worker_id}
        await self.bus.listen(RUN.pattern(**me), self.on_run)
        await self.bus.listen(BIND.pattern(**me), self.on_bind)
        await self.bus.listen(STOP.pattern(**me), self.on_stop)
        await self.bus.listen(CANCEL_ATTEMPT.pattern(**me), self.on_cancel)
        await self.bus.listen(SHARD_OWNED.pattern(), self.on_owned)
        await self.send_beat()

    async def on_owned(self, _delivery) -> None:
        await self.send_beat()

    async def on_run(self, delivery) -> None:
        run = delivery.message
        view = self.views.get(run.container_id)
        invocation_id = run.request.invocation_id if run.request else run.record
        if view is None or len(view.in_flight) >= view.slots:
            refused = AttemptRefused(
                container_id=run.container_id,
                invocation_id=invocation_id,
                reason="unknown" if view is None else "full",
                request=run.request,
            )
            await self.bus.send(REFUSED.at(shard=run.shard), refused)
            return
        self._in_flight(run.container_id, (*view.in_flight, invocation_id))
        self.runs.append(run)

    async def on_bind(self, delivery) -> None:
        bind = delivery.message
        if bind.generation < 0:
            await delivery.answer(BindReply(accepted=False, reason="stale"))
            return
        await delivery.answer(BindReply(accepted=not self.bind_reason, reason=self.bind_reason))
        if not self.bind_reason:
            self.bound[bind.container_id] = bind
            await self.start(bind)

    async def start(self, bind) -> None:
        state = ContainerState.READY if self.becomes_ready else ContainerState.STARTING
        spec = bind.spec
        self.views[bind.container_id] = ContainerView(
            container_id=bind.container_id,
            deployment_id=spec.deployment_id or "-",
            workspace=spec.workspace,
            kind=spec.kind,
            state=state,
            resources=spec.resources,
            slots=spec.processes * spec.concurrency,
            gpu_ids=bind.gpu_ids,
        )
        await self.change(bind.container_id, state)

    async def on_stop(self, delivery) -> None:
        self.stopped.append(delivery.message)
        if delivery.message.container_id in self.views:
            await self.change(delivery.message.container_id, ContainerState.STOPPED)

    async def on_cancel(self, delivery) -> None:
        self.cancelled.append(delivery.message.invocation_id)

    async def change(self, container_id: ContainerId, state: ContainerState, **more) -> None:
        view = self.views[container_id]
        if state in {ContainerState.STOPPED, ContainerState.FAILED}:
            del self.views[container_id]
        change = ContainerChanged(
            container_id=container_id,
            deployment_id=view.deployment_id,
            worker_id=self.worker_id,
            workspace=view.workspace,
            kind=view.kind,
            state=state,
            slots=view.slots,
            **more,
        )
        at = CONTAINER.at(deployment_id=view.deployment_id, container_id=container_id)
        await self.bus.append(at, change)

    async def send_beat(self) -> None:
        self.beat += 1
        beat = WorkerBeat(
            worker_id=self.worker_id,
            beat=self.beat,
            started_at=1.0,
            host="h",
            cpu_millis=self.cpu_millis,
            memory_bytes=8 * GIB,
            containers=tuple(self.views.values()),
        )
        await self.bus.send(WORKER_BEAT.at(worker_id=self.worker_id), beat)

    async def end(self, run: RunInvocation) -> None:
        """Be done with it (a durable one: write its success first)."""
        invocation_id = run.request.invocation_id if run.request else run.record
        view = self.views[run.container_id]
        rest = tuple(i for i in view.in_flight if i != invocation_id)
        self._in_flight(run.container_id, rest)
        ended = AttemptEnded(container_id=run.container_id, invocation_ids=(invocation_id,))
        await self.bus.send(ENDED.at(shard=run.shard), ended)

    async def claim(self, run: RunInvocation) -> int:
        """Write RUNNING; return the token."""
        record = await self._record(run)
        running = msgspec.structs.replace(
            record,
            state=State.RUNNING,
            attempt=record.attempt + 1,
            order=ordered_by(record, run.record_sequence),
            started_at=time.time(),
            worker_id=self.worker_id,
            container_id=run.container_id,
        )
        return await self._write(run, running, run.record_sequence)

    async def succeed(self, run: RunInvocation, token: int, state: State = State.SUCCEEDED) -> bool:
        """Write the state and be done; tell whether the token was still good."""
        record = msgspec.structs.replace(await self._record(run), state=state)
        try:
            await self._write(run, record, token)
        except ConflictError:
            return False
        await self.end(run)
        return True

    async def _record(self, run: RunInvocation) -> InvocationRecord:
        found = await self.bus.last(self._at(run))
        assert found is not None
        return found.message

    async def _write(self, run: RunInvocation, record: InvocationRecord, expect: int) -> int:
        return await self.bus.append(
            self._at(run),
            record,
            expect_last=expect,
            headers=record_headers(record),
            ttl_s=60.0 if is_terminal(record.state) else 0.0,
        )

    def _at(self, run: RunInvocation):
        return RECORD.at(shard=run.shard, workspace=run.workspace, invocation_id=run.record)

    def _in_flight(self, container_id: ContainerId, ids: tuple[InvocationId, ...]) -> None:
        view = self.views[container_id]
        self.views[container_id] = msgspec.structs.replace(view, in_flight=ids)


@asynccontextmanager
async def open_fake_worker(
    url: str, worker_id: str = "w1", cpu_millis: int = 4000, beat_s: float = 0.3
) -> AsyncIterator[FakeWorker]:
    """A worker on a connection of its own, beating; leaving the context is its sudden death."""
    async with open_bus(url, instance=worker_id) as bus:
        worker = FakeWorker(bus, worker_id, cpu_millis)
        await worker.listen()

        async def keep_beating() -> None:
            while True:
                await asyncio.sleep(beat_s)
                with contextlib.suppress(WireError):  # the broker is away
                    await worker.send_beat()

        beating = asyncio.ensure_future(keep_beating())
        try:
            yield worker
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
