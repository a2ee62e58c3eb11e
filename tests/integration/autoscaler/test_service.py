"""The autoscaler service on a real broker: one decides, the other takes over, nothing is left at work."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from glowplug_autoscaler import service
from glowplug_autoscaler.service import open_service
from glowplug_autoscaler.settings import AutoscalerSettings
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.streams import DEPLOYMENTS, LEASES
from glowplug_contracts.subjects import BACKLOG, CONTAINER, SCALE
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.service import serve

from tests.support.builders_scale import a_backlog, a_change, a_deployment
from tests.support.eventually import eventually


@asynccontextmanager
async def open_autoscaler(url: str, instance: str):
    """A replica in this process, on a connection of its own."""
    ready = asyncio.get_running_loop().create_future()
    async with open_bus(url, instance=instance) as bus:
        running = asyncio.ensure_future(
            serve(
                "autoscaler",
                AutoscalerSettings(),
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


@pytest.fixture
async def targets(bus):
    """Decisions as placement hears them: the last per deployment."""
    heard = {}

    async def on_decided(delivery):
        last = heard.get(delivery.message.deployment_id)
        assert last is None or last.generation <= delivery.message.generation
        heard[delivery.message.deployment_id] = delivery.message

    following = await bus.follow(SCALE.pattern(), on_decided)
    yield heard
    await following.close()


async def deploy(bus, name="f", **policy):
    deployment = a_deployment(name, **policy)
    await bus.bucket(DEPLOYMENTS).put(f"default.{deployment.deployment_id}", deployment)


async def say_backlog(bus, name="f", **numbers):
    await bus.send(BACKLOG.at(deployment_id=f"dep_{name}"), a_backlog(name, **numbers))


async def repeat_backlog_until(bus, look, **numbers):
    """As the dispatcher does: say a non-empty backlog again and again."""

    async def said():
        await say_backlog(bus, **numbers)
        return look()

    return await eventually(said)


def at(targets, target, name="f"):
    return lambda: (d := targets.get(f"dep_{name}")) is not None and d.target == target


async def test_the_first_call_wakes_a_deployment_and_idleness_lets_it_sleep(
    bus, nats_server, targets
):
    await deploy(bus, keep_warm_s=0.2)
    async with open_autoscaler(nats_server.url, "one"):
        await repeat_backlog_until(bus, at(targets, 1), queued=1)
        assert targets["dep_f"].reason == "backlog"
        await say_backlog(bus)
        await eventually(at(targets, 0))
        assert targets["dep_f"].reason == "idle"


async def test_a_deployment_written_later_gets_its_minimum(bus, nats_server, targets):
    async with open_autoscaler(nats_server.url, "one"):
        await deploy(bus, minimum=1)
        await eventually(at(targets, 1))


async def test_a_decision_that_nobody_can_read_keeps_no_leader_from_deciding(
    bus, nats_server, targets
):
    """Found by the campaign: the last message of the stream was garbage, and nothing scaled any more."""
    await deploy(bus)
    await bus.append_raw(
        SCALE.at(deployment_id="dep_x").subject, b"garbage", {}, 5, "SCALE_DECISIONS"
    )
    async with open_autoscaler(nats_server.url, "one"):
        await repeat_backlog_until(bus, at(targets, 1), queued=1)


async def test_a_failed_start_is_heard_from_the_stream(bus, nats_server, targets):
    await deploy(bus)
    async with open_autoscaler(nats_server.url, "one"):
        await repeat_backlog_until(bus, at(targets, 1), queued=1, arrivals=1)
        event = a_change(ContainerState.FAILED, reason="start_failed")
        await bus.append(CONTAINER.at(deployment_id="dep_f", container_id="c1"), event)
        await eventually(at(targets, 0))
        assert targets["dep_f"].reason == "start_failed"


async def test_of_two_replicas_one_decides_and_the_other_follows(bus, nats_server, targets):
    await deploy(bus, keep_warm_s=0.2, maximum=4)
    async with open_autoscaler(nats_server.url, "one") as one:
        await eventually(lambda: "autoscaler" in one.leading)
        async with open_autoscaler(nats_server.url, "two") as two:
            await repeat_backlog_until(bus, at(targets, 3), queued=3)
            assert "autoscaler" not in two.leading
            first = targets["dep_f"].generation
            one.stopping.set()
            await eventually(lambda: "autoscaler" in two.leading)
            # Nobody says anything of the deployment any more: the successor takes it to zero.
            await eventually(at(targets, 0))
            assert targets["dep_f"].generation > first


async def test_one_that_lost_its_lease_decides_under_a_new_generation_only(
    bus, nats_server, targets
):
    await deploy(bus)
    async with open_autoscaler(nats_server.url, "one") as one:
        await eventually(lambda: "autoscaler" in one.leading)
        await bus.bucket(LEASES).delete(service.LEASE)

        def decided_anew():
            return at(targets, 1)() and targets["dep_f"].generation > 1

        await repeat_backlog_until(bus, decided_anew, queued=1)


async def test_decisions_survive_a_broker_that_goes_away(bus, nats_server, targets):
    await deploy(bus, minimum=1)
    async with open_autoscaler(nats_server.url, "one"):
        await eventually(at(targets, 1))
        nats_server.kill()
        nats_server.start()
        await eventually(lambda: bus.connected)
        await deploy(bus, "g", minimum=2, maximum=2)
        await eventually(at(targets, 2, "g"))
