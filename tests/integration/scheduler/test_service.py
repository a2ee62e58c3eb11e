"""The scheduler on a real broker with a fake worker: placed, handed, lost, taken over."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.messages.container import (
    ContainerKind,
    ContainerSpec,
    ContainerState,
    ContainerWanted,
)
from glowplug_contracts.messages.deployment import DeploymentState
from glowplug_contracts.messages.dispatch import CallsKnown, CallsProbed, CancelInvocation
from glowplug_contracts.messages.invocation import Format, Input, Payload, RemoteError, State
from glowplug_contracts.messages.record import InvocationRecord, record_headers
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.streams import DEPLOYMENTS, LEASES, WANTED
from glowplug_contracts.subjects import CALL, CANCEL, PROBE, RECORD, SCALE
from glowplug_runtime.bus_nats import open_bus
from glowplug_scheduler import dispatching

from tests.integration.scheduler.conftest import open_scheduler
from tests.support.builders_scale import a_deployment
from tests.support.builders_scheduler import a_request
from tests.support.eventually import eventually
from tests.support.fake_worker import open_fake_worker


async def deploy(bus, name="f", target=1, **more):
    deployment = a_deployment(name, **more)
    await bus.bucket(DEPLOYMENTS).put(f"default.{deployment.deployment_id}", deployment)
    await scale(bus, name, target)


async def scale(bus, name, target, previous=0):
    decided = ScaleDecided(
        deployment_id=f"dep_{name}", target=target, previous=previous, reason="t", generation=1
    )
    await bus.append(SCALE.at(deployment_id=f"dep_{name}"), decided)


async def call(bus, name, **more):
    request = a_request(name, **more)
    at = CALL.at(shard=0, workspace="default", invocation_id=name)
    await bus.append(at, request)


async def spawn(bus, name, **more):
    payload = Payload(format=Format.JSON, data=b"{}")
    record = InvocationRecord(
        invocation_id=name,
        workspace="default",
        deployment_id="dep_f",
        input=Input(args=payload),
        **more,
    )
    at = RECORD.at(shard=0, workspace="default", invocation_id=name)
    await bus.append(at, record, expect_last=0, headers=record_headers(record))


async def record_of(bus, name):
    found = await bus.last(RECORD.at(shard=0, workspace="default", invocation_id=name))
    return found.message


def ids(worker):
    return [run.request.invocation_id if run.request else run.record for run in worker.runs]


async def test_a_target_becomes_containers_and_calls_reach_their_slots(bus, nats_server, heard):
    async with open_scheduler(nats_server.url), open_fake_worker(nats_server.url) as worker:
        await deploy(bus, target=2)
        await eventually(lambda: len(worker.bound) == 2)
        for number in range(3):
            await call(bus, f"inv_{number}")
        await eventually(lambda: len(worker.runs) == 2)
        assert len({run.container_id for run in worker.runs}) == 2
        await eventually(lambda: heard.backlogs and heard.backlogs[-1].queued == 1)
        await worker.end(worker.runs[0])
        await eventually(lambda: sorted(ids(worker)) == ["inv_0", "inv_1", "inv_2"])
        for run in worker.runs[1:]:
            await worker.end(run)
        await eventually(
            lambda: (heard.backlogs[-1].queued, heard.backlogs[-1].in_flight) == (0, 0)
        )
        assert heard.backlogs[-1].arrivals == 3
        await scale(bus, "f", 0, previous=2)
        await eventually(lambda: len(worker.stopped) == 2)
        assert {stop.reason for stop in worker.stopped} == {"idle"}
        assert {placed.decision for placed in heard.placements} == {"placed"}


async def test_a_call_from_zero_is_announced_and_handed_when_a_container_is_ready(
    bus, nats_server, heard
):
    async with open_scheduler(nats_server.url), open_fake_worker(nats_server.url) as worker:
        await deploy(bus, target=0)
        await call(bus, "inv_1", trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        await eventually(lambda: heard.backlogs and heard.backlogs[0].queued == 1)
        assert heard.backlogs[0].trace.startswith("00-aaaa")
        await scale(bus, "f", 1)
        await eventually(lambda: ids(worker) == ["inv_1"])


async def test_priority_goes_first_and_a_cancelled_call_is_never_handed(bus, nats_server, heard):
    async with open_scheduler(nats_server.url), open_fake_worker(nats_server.url) as worker:
        await deploy(bus, target=0)
        await call(bus, "inv_low", priority=-1)
        await call(bus, "inv_gone")
        await call(bus, "inv_high", priority=5)
        await eventually(lambda: heard.backlogs and heard.backlogs[-1].queued == 3)
        await bus.send(CANCEL.at(shard=0), CancelInvocation(invocation_id="inv_gone"))
        await eventually(lambda: heard.backlogs[-1].queued == 2)
        await scale(bus, "f", 1)
        await eventually(lambda: ids(worker) == ["inv_high"])
        await bus.send(CANCEL.at(shard=0), CancelInvocation(invocation_id="inv_high"))
        await eventually(lambda: worker.cancelled == ["inv_high"])
        await worker.end(worker.runs[0])
        await eventually(lambda: ids(worker) == ["inv_high", "inv_low"])


async def test_a_durable_invocation_is_handed_with_the_sequence_to_claim_it(bus, nats_server):
    async with open_scheduler(nats_server.url), open_fake_worker(nats_server.url) as worker:
        await deploy(bus)
        await spawn(bus, "inv_1")
        await eventually(lambda: ids(worker) == ["inv_1"])
        assert worker.runs[0].request is None
        token = await worker.claim(worker.runs[0])
        assert await worker.succeed(worker.runs[0], token)
        await spawn(bus, "inv_2")
        await eventually(lambda: ids(worker) == ["inv_1", "inv_2"])


async def test_a_dead_worker_is_noticed_and_its_work_goes_on_elsewhere(bus, nats_server, heard):
    async with open_scheduler(nats_server.url):
        async with open_fake_worker(nats_server.url, "w1") as first:
            await deploy(bus, target=2)
            await eventually(lambda: len(first.bound) == 2)
            await call(bus, "inv_call")
            await spawn(bus, "inv_task")
            await eventually(lambda: len(first.runs) == 2)
            task = next(run for run in first.runs if run.record)
            await first.claim(task)
        async with open_fake_worker(nats_server.url, "w2") as second:
            await eventually(lambda: [r for r in heard.replies if r.lost])
            lost = heard.replies[0].lost
            assert (lost.invocation_id, lost.attempt, lost.cause) == ("inv_call", 1, "worker")
            await eventually(lambda: len(second.bound) == 2)
            await eventually(lambda: ids(second) == ["inv_task"])
            record = await record_of(bus, "inv_task")
            assert (record.state, record.lost_attempts) == (State.RETRY_WAIT, 1)


async def test_another_replica_takes_over_without_losing_or_doubling_work(bus, nats_server):
    url = nats_server.url
    async with open_fake_worker(url) as worker:
        async with open_scheduler(url, "s1"):
            await deploy(bus, target=1)
            await eventually(lambda: len(worker.bound) == 1)
            await call(bus, "inv_running")
            await eventually(lambda: ids(worker) == ["inv_running"])
            await call(bus, "inv_waiting")
            await spawn(bus, "inv_task")
        async with open_scheduler(url, "s2"):
            await eventually(lambda: settled(bus))
            known = await probe(bus, "inv_running", "inv_waiting", "inv_no")
            assert known.unknown == ("inv_no",)
            await worker.end(worker.runs[0])
            await eventually(lambda: len(worker.runs) == 2)
            await worker.end(worker.runs[1])
            await eventually(lambda: len(worker.runs) == 3)
            assert sorted(ids(worker)) == ["inv_running", "inv_task", "inv_waiting"]
            assert {run.generation for run in worker.runs[1:]} == {worker.runs[1].generation}
            assert worker.runs[1].generation > worker.runs[0].generation
            assert len(worker.bound) == 1


async def probe(bus, *names):
    return await bus.request(
        PROBE.at(shard=0), CallsProbed(invocation_ids=names), CallsKnown, timeout_s=5
    )


async def settled(bus):
    try:
        return (await probe(bus)).settled
    except UnavailableError:
        return False


async def test_a_start_failure_reaches_the_callers_of_everything_that_waits(
    bus, nats_server, heard
):
    async with open_scheduler(nats_server.url), open_fake_worker(nats_server.url) as worker:
        worker.becomes_ready = False
        await call(bus, "inv_call")
        await spawn(bus, "inv_task")
        await eventually(lambda: heard.backlogs and heard.backlogs[-1].queued == 2)
        await deploy(bus, target=1)
        await eventually(lambda: len(worker.bound) == 1)
        error = RemoteError(code="function.start_failed", type="ImportError", message="no module")
        (container_id,) = worker.bound
        await worker.change(container_id, ContainerState.FAILED, reason="start_failed", error=error)
        await eventually(lambda: heard.replies)
        assert heard.replies[0].lost.cause == "start_failed"
        assert heard.replies[0].lost.error == error

        async def failed():
            return (await record_of(bus, "inv_task")).state is State.FAILED

        await eventually(failed)
        assert (await record_of(bus, "inv_task")).outcome.error == error


async def test_what_waits_for_a_deleted_deployment_is_ended_also_by_a_later_owner(
    bus, nats_server, heard
):
    at = "default.dep_f"
    gone = msgspec.structs.replace(a_deployment("f"), state=DeploymentState.DELETED)

    async def failed(name):
        record = await record_of(bus, name)
        return record.state is State.FAILED and record.outcome.error.code

    async with open_scheduler(nats_server.url):
        await deploy(bus, target=0)
        await call(bus, "inv_call")
        await spawn(bus, "inv_task")
        await eventually(lambda: heard.backlogs and heard.backlogs[-1].queued == 2)
        await bus.bucket(DEPLOYMENTS).put(at, gone)
        await eventually(lambda: heard.replies)
        assert heard.replies[0].lost.error.code == "deployment.not_found"
        await eventually(lambda: failed("inv_task"))
    await spawn(bus, "inv_late")
    async with open_scheduler(nats_server.url):
        await eventually(lambda: failed("inv_late"))
    assert await failed("inv_late") == "deployment.not_found"


async def test_what_fits_nowhere_is_parked_with_reasons_until_a_worker_comes(
    bus, nats_server, heard
):
    url = nats_server.url
    async with open_scheduler(url), open_fake_worker(url, "w1", cpu_millis=50) as small:
        await deploy(bus, target=1)
        await eventually(lambda: heard.placements)
        parked = heard.placements[0]
        assert parked.decision == "parked"
        assert parked.reasons["w1"].startswith("cpu: needs 125m")
        assert not small.bound
        async with open_fake_worker(url, "w2") as large:
            await eventually(lambda: list(large.bound) == [parked.container_id])


async def test_a_named_container_starts_when_wanted_and_stops_when_its_key_goes(bus, nats_server):
    spec = ContainerSpec(kind=ContainerKind.SANDBOX, workspace="default")
    async with open_scheduler(nats_server.url), open_fake_worker(nats_server.url) as worker:
        wanted = bus.bucket(WANTED)
        await wanted.put("ctr_box", ContainerWanted(container_id="ctr_box", spec=spec))
        await eventually(lambda: "ctr_box" in worker.bound)
        await wanted.delete("ctr_box")
        await eventually(lambda: worker.stopped)
        assert (worker.stopped[0].container_id, worker.stopped[0].grace_s) == ("ctr_box", 0.0)


async def test_calls_beyond_the_cache_are_read_again_when_their_turn_comes(bus, nats_server, heard):
    async with (
        open_scheduler(nats_server.url, cache_bytes=0),
        open_fake_worker(nats_server.url) as worker,
    ):
        await deploy(bus, target=0)
        for number in range(3):
            await call(bus, f"inv_{number}", inputs=2)
        await eventually(lambda: heard.backlogs and heard.backlogs[-1].queued == 6)
        await scale(bus, "f", 1)
        for number in range(3):
            await eventually(lambda n=number: len(worker.runs) == n + 1)
            assert len(worker.runs[number].request.inputs) == 2
            await worker.end(worker.runs[number])
        assert ids(worker) == ["inv_0", "inv_1", "inv_2"]


async def test_a_bug_in_the_machine_ends_the_process_instead_of_losing_work_quietly(
    bus, nats_server, monkeypatch
):
    def broken(_self, _event, _now):
        raise AssertionError("an invariant")

    with pytest.raises(BaseExceptionGroup) as failure:  # noqa: PT012
        async with open_scheduler(nats_server.url) as shell:
            monkeypatch.setattr(dispatching.Dispatcher, "step", broken)
            await eventually(shell.running.done)
    assert failure.group_contains(AssertionError, match="an invariant")


async def test_after_a_broker_restart_streams_exist_again_and_work_goes_on(nats_server):
    url = nats_server.url
    async with (
        open_bus(url, instance="test") as bus,
        open_scheduler(url),
        open_fake_worker(url) as worker,
    ):
        await deploy(bus, target=1)
        await eventually(lambda: len(worker.bound) == 1)
        await call(bus, "inv_before")
        await eventually(lambda: ids(worker) == ["inv_before"])
        await worker.end(worker.runs[0])
        nats_server.kill()
        nats_server.start()
        await call(bus, "inv_after")
        await eventually(lambda: ids(worker) == ["inv_before", "inv_after"])
        await worker.end(worker.runs[1])
        await spawn(bus, "inv_task")
        await eventually(lambda: ids(worker) == ["inv_before", "inv_after", "inv_task"])
        assert len(worker.bound) == 1


@contextlib.contextmanager
def running_command(url, instance):
    """The service as its own process, by its own command."""
    command = Path(sys.executable).with_name("glowplug-scheduler")
    env = {**os.environ, "GLOWPLUG_NATS_URL": url, "GLOWPLUG_INSTANCE": instance}
    process = subprocess.Popen([command], env=env, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_command_serves_alone_and_a_killed_replica_is_followed_by_the_other(nats_server):
    url = nats_server.url
    async with open_bus(url, instance="test") as bus:
        with running_command(url, "s1") as first, running_command(url, "s2"):
            await eventually(lambda: settled(bus))
            leases = bus.bucket(LEASES)
            holder = (await leases.get("shard-0")).value.holder
            async with open_fake_worker(url) as worker:
                await deploy(bus, target=1)
                await eventually(lambda: len(worker.bound) == 1)
                if holder == "s1":
                    first.kill()
                await call(bus, "inv_1")
                await eventually(lambda: ids(worker) == ["inv_1"])
                first.terminate()
                await call(bus, "inv_2")
                await worker.end(worker.runs[0])
                await eventually(lambda: ids(worker) == ["inv_1", "inv_2"])
            assert first.wait() in {0, -9}
