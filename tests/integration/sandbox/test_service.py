"""The sandbox service on a real broker, with a test that plays placement and the worker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from glowplug_contracts.ids import ContainerId, SandboxId
from glowplug_contracts.messages.container import (
    ContainerKind,
    ContainerState,
    ExecInContainer,
    ExecReply,
    PlacementDecided,
)
from glowplug_contracts.messages.sandbox import SandboxCommand, SandboxReply, SandboxState
from glowplug_contracts.streams import SANDBOXES, WANTED
from glowplug_contracts.subjects import (
    CONTAINER,
    EXEC,
    PLACEMENT,
    SANDBOX_COMMAND,
    SANDBOX_CREATE,
    WORKER_BEAT,
)
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.service import serve
from glowplug_sandbox.service import open_service
from glowplug_sandbox.session import wanted_of
from glowplug_sandbox.settings import SandboxSettings

from tests.support.builders_sandbox import (
    KEY,
    SANDBOX,
    WORKSPACE,
    a_sandbox_change,
    a_session,
    an_ask,
)
from tests.support.builders_scale import a_beat, a_view
from tests.support.eventually import eventually


@asynccontextmanager
async def open_sandbox_service(url: str, instance: str = "one", **settings):
    """A replica in this process, on a connection of its own."""
    ready = asyncio.get_running_loop().create_future()
    async with open_bus(url, instance=instance) as bus:
        running = asyncio.ensure_future(
            serve(
                "sandbox",
                SandboxSettings(**settings),
                instance,
                bus,
                open_service,
                on_ready=ready.set_result,
            )
        )
        shell = await ready
        try:
            yield shell
        finally:
            shell.stopping.set()
            await running


class FakeWorker:
    """Placement and worker in one: starts every wanted container, ends those no longer wanted."""

    def __init__(self, bus):
        self.bus = bus
        self.running: dict[str, bool] = {}
        self.execs: list[ExecInContainer] = []
        self.starts = True
        self.beats = 0

    async def on_wanted(self, entry):
        if entry.value is not None and self.starts:
            self.running[entry.key] = False
            await self.say(ContainerState.READY, entry.key)
        elif entry.value is None and entry.key in self.running:
            del self.running[entry.key]
            await self.say(ContainerState.STOPPED, entry.key, reason="deleted")

    async def say(self, state, container_id, **more):
        change = a_sandbox_change(state, container_id, **more)
        at = CONTAINER.at(deployment_id="-", container_id=container_id)
        await self.bus.append(at, change)

    async def on_exec(self, delivery):
        self.execs.append(delivery.message)
        known = delivery.message.container_id in self.running
        await delivery.answer(ExecReply(accepted=known, reason="" if known else "unknown"))

    async def beat(self):
        self.beats += 1
        views = [
            a_view(c, "-", in_flight=("exe_1",) if busy else (), kind=ContainerKind.SANDBOX)
            for c, busy in self.running.items()
        ]
        await self.bus.send(WORKER_BEAT.at(worker_id="w1"), a_beat(*views, beat=self.beats))


@pytest.fixture
async def worker(bus):
    fake = FakeWorker(bus)
    watch = await bus.bucket(WANTED).watch(fake.on_wanted)
    ears = await bus.listen(EXEC.at(worker_id="w1"), fake.on_exec)
    yield fake
    await watch.close()
    await ears.close()


async def create(bus, **ask):
    return await bus.request(SANDBOX_CREATE.at(), an_ask(**ask), SandboxReply, timeout_s=20)


async def command(bus, verb, workspace=WORKSPACE, **more):
    asked = SandboxCommand(sandbox_id=SANDBOX, workspace=workspace, verb=verb, **more)
    return await bus.request(SANDBOX_COMMAND.at(), asked, SandboxReply, timeout_s=20)


async def wanted(bus):
    return {entry.key for entry in await bus.bucket(WANTED).entries()}


async def test_a_session_is_created_used_and_terminated(bus, nats_server, worker):
    async with open_sandbox_service(nats_server.url):
        reply = await create(bus)
        assert reply.error is None
        assert (reply.record.state, reply.record.worker_id) == (SandboxState.RUNNING, "w1")
        container_id = reply.record.container_id
        assert await wanted(bus) == {container_id}

        used = await command(
            bus, "exec", exec_id="exe_1", reply_to="gw", code="print(1)", env={"A": "1"}, cwd="/tmp"
        )
        assert used.record.used_at >= reply.record.used_at
        assert worker.execs == [
            ExecInContainer(
                container_id=container_id,
                exec_id="exe_1",
                reply_to="gw",
                mode="code",
                code="print(1)",
                env={"A": "1"},
                cwd="/tmp",
            )
        ]

        ended = await command(bus, "terminate")
        assert (ended.record.state, ended.record.reason) == (SandboxState.TERMINATED, "asked")
        assert await wanted(bus) == set()
        late = await command(bus, "exec", exec_id="exe_2")
        assert late.error.code == "sandbox.not_found"
        assert (await command(bus, "status")).record.state is SandboxState.TERMINATED


async def test_many_start_at_once_over_two_replicas(bus, nats_server, worker):
    async with (
        open_sandbox_service(nats_server.url),
        open_sandbox_service(nats_server.url, "two"),
    ):
        ids = [SandboxId(f"sbx_{number:026d}") for number in range(20)]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(create(bus, sandbox_id=one)) for one in ids]
        states = {task.result().record.state for task in asked}
        assert states == {SandboxState.RUNNING}
        assert len(await wanted(bus)) == 20


async def test_the_same_creation_again_is_the_same_session(bus, nats_server, worker):
    async with open_sandbox_service(nats_server.url):
        first = await create(bus)
        again = await create(bus)
        assert again.record.container_id == first.record.container_id


async def test_another_workspace_does_not_find_the_session(bus, nats_server, worker):
    async with open_sandbox_service(nats_server.url):
        await create(bus)
        for verb in ("status", "exec", "terminate"):
            reply = await command(bus, verb, workspace="other")
            assert reply.error.code == "sandbox.not_found"
        assert (await command(bus, "status")).record.state is SandboxState.RUNNING


async def test_what_can_not_be_asked_is_refused(bus, nats_server, worker):
    async with open_sandbox_service(nats_server.url):
        assert (await create(bus, sandbox_id="sbx_nonsense")).error.code == "request.bad_id"
        assert (await command(bus, "dance")).error.code == "request.invalid"
        assert (await command(bus, "status")).error.code == "sandbox.not_found"


async def test_one_that_no_worker_takes_fails_with_the_reasons(bus, nats_server, worker):
    worker.starts = False

    async def park(entry):
        if entry.value is not None:
            decided = PlacementDecided(
                container_id=ContainerId(entry.key),
                deployment_id=entry.value.spec.deployment_id,
                decision="parked",
                reasons={"w1": "memory"},
            )
            await bus.append(PLACEMENT.at(container_id=entry.key), decided)

    parking = await bus.bucket(WANTED).watch(park)
    async with open_sandbox_service(nats_server.url, start_s=1.0):
        reply = await create(bus)
        assert reply.record.state is SandboxState.FAILED
        assert reply.error.code == "scheduler.no_worker_fits"
        assert reply.error.details == {"reasons": {"w1": "memory"}}
        assert await wanted(bus) == set()
    await parking.close()


async def test_a_container_that_fails_fails_its_session(bus, nats_server, worker):
    async with open_sandbox_service(nats_server.url):
        reply = await create(bus)
        await worker.say(ContainerState.FAILED, reply.record.container_id, reason="crashed")

        async def failed():
            return (await command(bus, "status")).record.state is SandboxState.FAILED

        await eventually(failed)
        assert await wanted(bus) == set()


async def test_an_idle_session_is_ended_and_a_busy_one_is_not(bus, nats_server, worker):
    async with open_sandbox_service(nats_server.url):
        container_id = (await create(bus, ttl_s=1.5)).record.container_id
        worker.running[container_id] = True
        beats_before = worker.beats

        async def state():
            await worker.beat()
            await asyncio.sleep(0.1)
            return (await command(bus, "status")).record.state

        while worker.beats < beats_before + 20:  # 2 s and more, longer than its time to live
            assert await state() is SandboxState.RUNNING
        worker.running[container_id] = False

        async def ended():
            return await state() is SandboxState.TERMINATED

        await eventually(ended)
        assert (await command(bus, "status")).record.reason == "idle"


async def test_what_a_dead_replica_left_undone_is_repaired(bus, nats_server, worker):
    records, wishes = bus.bucket(SANDBOXES), bus.bucket(WANTED)
    record = a_session()  # stored, but its container was not yet asked for
    await records.create(KEY, record)
    ended = msgspec.structs.replace(
        a_session(SandboxState.TERMINATED),
        sandbox_id=SandboxId(f"sbx_{2:026d}"),
        container_id=ContainerId("ctr_ended"),
    )
    await records.create(f"default.{ended.sandbox_id}", ended)
    await wishes.create("ctr_ended", wanted_of(ended))
    stray = msgspec.structs.replace(wanted_of(ended), container_id=ContainerId("ctr_stray"))
    await wishes.create("ctr_stray", stray)
    builds = msgspec.structs.replace(stray, container_id=ContainerId("ctr_build"), owner="build")
    await wishes.create("ctr_build", builds)

    async with open_sandbox_service(nats_server.url):

        async def repaired():
            return await wanted(bus) == {record.container_id, "ctr_build"}

        await eventually(repaired)

        async def running():
            return (await command(bus, "status")).record.state is SandboxState.RUNNING

        await eventually(running)


async def test_a_stopping_replica_lets_waiting_creations_go(bus, nats_server, worker):
    worker.starts = False
    async with open_sandbox_service(nats_server.url) as shell:
        asked = asyncio.ensure_future(create(bus))

        async def wished():
            return await wanted(bus)

        await eventually(wished)
        shell.stopping.set()
        assert (await asked).error.code == "platform.unavailable"
