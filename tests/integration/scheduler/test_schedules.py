"""Schedules on a real broker: two replicas, one killed; a broker that is down; a pause; a redeploy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import msgspec
import pytest
from glowplug_contracts.ids import DeploymentId, WorkspaceId
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    FunctionKind,
    SourceRef,
)
from glowplug_contracts.messages.schedule import CatchUp, ScheduleSpec
from glowplug_contracts.streams import DEPLOYMENTS, LEASES, SCHEDULE_STATES
from glowplug_contracts.subjects import RECORD

from tests.integration.scheduler.conftest import open_scheduler
from tests.support.eventually import eventually


def a_version(
    number: int = 1, when: str = "every 1s", catch_up: CatchUp = CatchUp.SKIP, **changes
) -> Deployment:
    spec = DeploymentSpec(
        name="tidy",
        kind=FunctionKind.SCHEDULE,
        source=SourceRef(handler="app:tidy"),
        schedule=ScheduleSpec(when=when, catch_up=catch_up),
    )
    fields = {
        "deployment_id": DeploymentId(f"dep_{number}"),
        "workspace": WorkspaceId("default"),
        "version": number,
        "spec": spec,
        "latest": True,
    }
    return Deployment(**(fields | changes))


async def deploy(bus, version: Deployment) -> None:
    await bus.bucket(DEPLOYMENTS).put(f"default.{version.deployment_id}", version)


async def state(bus):
    found = await bus.bucket(SCHEDULE_STATES).get("default.tidy")
    return None if found is None else found.value


@contextlib.asynccontextmanager
async def firings(bus):
    """Yield what fires, as it does: (due time, deployment)."""
    found = []

    async def on_record(delivery) -> None:
        if delivery.message is not None:
            found.append((delivery.message.scheduled_for, delivery.message.deployment_id))

    following = await bus.follow(RECORD.pattern(shard=0), on_record)
    try:
        yield found
    finally:
        await following.close()


def assert_every_second_once(found) -> None:
    due = [one for one, _ in found]
    assert due == [due[0] + number for number in range(len(due))]


@contextlib.asynccontextmanager
async def replicas(url, *names):
    """Real processes, so that a kill is a kill: nothing is given back."""
    env = os.environ | {"GLOWPLUG_NATS_URL": url}
    started = {
        name: subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-m", "glowplug_scheduler"], env=env | {"GLOWPLUG_INSTANCE": name}
        )
        for name in names
    }
    try:
        yield started
    finally:
        for process in started.values():
            kill(process)


def kill(process) -> None:
    process.kill()
    process.wait()


async def leader_of(bus) -> str:
    """Return the replica that holds the shard's lease."""

    async def holder() -> str:
        found = await bus.bucket(LEASES).get("shard-0")
        return found.value.holder if found is not None and found.value is not None else ""

    return await eventually(holder)


async def test_each_second_fires_once_while_the_leader_is_killed(bus, nats_server) -> None:
    await deploy(bus, a_version())
    async with firings(bus) as found, replicas(nats_server.url, "s1", "s2", "s3") as processes:
        await eventually(lambda: len(found) >= 3)
        for _ in range(2):
            kill(processes.pop(await leader_of(bus)))
            before = len(found)
            await eventually(lambda enough=before + 5: len(found) >= enough)
        assert_every_second_once(found)
        stored = await state(bus)
    assert stored.skipped == 0
    assert stored.fired >= len(found) - 1


@pytest.mark.slow
async def test_a_minute_of_seconds_with_a_kill_in_it(bus, nats_server) -> None:
    await deploy(bus, a_version())
    async with firings(bus) as found, replicas(nats_server.url, "s1", "s2") as processes:
        await eventually(lambda: len(found) >= 25, within_s=60)
        kill(processes.pop(await leader_of(bus)))
        await eventually(lambda: len(found) >= 61, within_s=60)
    assert_every_second_once(found)


async def test_a_clock_set_back_fires_none_twice(bus, nats_server) -> None:
    await deploy(bus, a_version())
    async with firings(bus) as found:
        async with open_scheduler(nats_server.url, "s1") as first:
            await eventually(lambda: len(found) >= 3)
            first.clock.unix = lambda: time.time() - 30
            before = len(found)
            await eventually(lambda: len(found) >= before + 3)
        # Another owner, whose clock is wrong, too, reads all that is stored.
        async with open_scheduler(nats_server.url, "s2") as second:
            second.clock.unix = lambda: time.time() - 60
            before = len(found)
            await eventually(lambda: len(found) >= before + 3)
    assert_every_second_once(found)


async def test_a_broker_that_was_down_is_caught_up_by_the_policy(bus, nats_server) -> None:
    await deploy(bus, a_version(catch_up=CatchUp.SKIP))
    async with open_scheduler(nats_server.url, schedule_late_s=1.5) as _, firings(bus) as found:
        await eventually(lambda: len(found) >= 2)
        nats_server.kill()
        down_at = time.time()
        await eventually(lambda: time.time() > down_at + 5, what="five seconds")
        nats_server.start()
        up_at = time.time()
        await eventually(lambda: found and found[-1][0] > up_at + 2)
        due = [one for one, _ in found]
        stored = await eventually(lambda: state(bus))
    assert len(due) == len(set(due))
    assert due == sorted(due)
    lines = [line for line in stored.history if line.outcome == "skipped"]
    assert stored.skipped == sum(line.count for line in lines) > 0
    skipped = {line.due + number for line in lines for number in range(line.count)}
    whole = {due[0] + number for number in range(int(due[-1] - due[0]) + 1)}
    assert set(due) | skipped >= whole
    assert not set(due) & skipped


async def test_all_fires_what_a_dead_broker_missed(bus, nats_server) -> None:
    await deploy(bus, a_version(catch_up=CatchUp.ALL))
    async with open_scheduler(nats_server.url, schedule_late_s=1.0) as _, firings(bus) as found:
        await eventually(lambda: len(found) >= 2)
        nats_server.kill()
        down_at = time.time()
        await eventually(lambda: time.time() > down_at + 4, what="four seconds")
        nats_server.start()
        up_at = time.time()
        await eventually(lambda: found and found[-1][0] > up_at + 1)
    assert_every_second_once(found)


async def test_a_redeploy_goes_on_with_the_new_version_and_keeps_the_pause(
    bus, nats_server
) -> None:
    await deploy(bus, a_version())
    async with open_scheduler(nats_server.url) as _, firings(bus) as found:
        await eventually(lambda: len(found) >= 2)
        await deploy(bus, a_version(2))
        await deploy(bus, a_version(1, latest=False))
        await eventually(lambda: found[-1][1] == "dep_2")
        assert_every_second_once(found)
        states = bus.bucket(SCHEDULE_STATES)
        await eventually(lambda: pause(states))
        paused = len(found)
        await deploy(bus, a_version(3))
        await deploy(bus, a_version(2, latest=False))
        now = time.time()
        await eventually(lambda: time.time() > now + 2.5, what="two due times")
        assert len(found) <= paused + 1  # one may have been claimed when it was paused
        assert (await state(bus)).paused


async def pause(states) -> bool:
    entry = await states.get("default.tidy")
    with contextlib.suppress(Exception):
        await states.update(
            "default.tidy", msgspec.structs.replace(entry.value, paused=True), entry.revision
        )
        return True
    return False


async def test_what_is_ephemeral_deleted_or_superseded_fires_nothing(bus, nats_server) -> None:
    await deploy(bus, a_version(1, ephemeral=True))
    await deploy(bus, a_version(2, latest=False))
    await deploy(bus, a_version(3, state=DeploymentState.DELETED))
    await deploy(
        bus, msgspec.structs.replace(a_version(4), spec=msgspec.structs.replace(
            a_version().spec, name="other"
        ))
    )  # fmt: skip
    async with open_scheduler(nats_server.url) as _, firings(bus) as found:
        await eventually(lambda: len(found) >= 2)
        assert {deployment for _, deployment in found} == {"dep_4"}
    assert await state(bus) is None
