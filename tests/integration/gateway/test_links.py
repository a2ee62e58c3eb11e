"""The direct path, gateway's side: a scripted worker links itself and is sent calls, or refuses them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
import structlog
from glowplug_contracts.codec import encode
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId, make_id
from glowplug_contracts.messages.dispatch import BacklogChanged
from glowplug_contracts.messages.invocation import Outcome, Reply
from glowplug_contracts.messages.link import (
    CallCancelled,
    CallRefused,
    CallSent,
    SlotsTold,
    WorkerLinked,
)
from glowplug_contracts.subjects import BACKLOG, REPLY

from tests.support.eventually import eventually
from tests.support.gateway_world import Web, ok, open_gateway_service
from tests.support.linked_worker import CONTAINER, LinkedWorker, a_link


@pytest.fixture
async def link(gateway):
    """A worker linked for a new deployment, with one warm slot told."""
    deployment = await gateway.deployed()
    async with a_link(gateway) as socket:
        worker = LinkedWorker(socket, deployment)
        await worker.send(WorkerLinked(worker_id=WorkerId("w1")))
        await worker.send(worker.slots(1))
        yield worker


async def a_call_through(gateway: Web, link: LinkedWorker) -> tuple[Any, CallSent]:
    """Return a call under way and the frame it became; the first may miss the slot just told."""
    calling = asyncio.ensure_future(gateway.call(link.deployment))
    return calling, await link.receive()


async def test_a_call_goes_straight_to_a_warm_slot(gateway, world, link):
    calling, frame = await a_call_through(gateway, link)
    assert frame.container_id == CONTAINER
    assert frame.request.first
    await link.answer(frame.request, "hello", stored=False)
    assert json.loads((await calling)[1]) == "hello"
    assert world.requests == []  # the shard's stream saw none of it


async def test_with_its_slot_taken_a_call_goes_through_the_shard(gateway, world, link):
    calling, frame = await a_call_through(gateway, link)
    assert json.loads((await gateway.call(link.deployment, "second"))[1])["args"] == ["second"]
    await link.answer(frame.request, "first")
    await calling
    assert len(world.requests) == 1


async def test_a_refused_call_goes_through_the_shard_as_the_same_attempt(gateway, world, link):
    calling, frame = await a_call_through(gateway, link)
    invocation_id = frame.request.invocation_id
    await link.send(CallRefused(invocation_id=invocation_id, reason="full", slots=link.slots(0)))
    assert json.loads((await calling)[1]) == {"args": [], "kwargs": {}}
    assert [(r.invocation_id, r.attempt) for r in world.requests] == [(invocation_id, 1)]


async def test_what_a_lost_worker_had_is_sent_again_as_the_next_attempt(gateway, world, link):
    calling, frame = await a_call_through(gateway, link)
    await link.socket.close()
    await calling
    assert [(r.invocation_id, r.attempt, r.first) for r in world.requests] == [
        (frame.request.invocation_id, 2, False)
    ]


async def test_an_outcome_that_is_not_stored_answers_only_the_latest_attempt(gateway, world, link):
    release = asyncio.Event()

    async def wait(_request, one):
        await release.wait()
        return ok("second", one.index)

    world.work = wait
    calling, frame = await a_call_through(gateway, link)
    await link.socket.close()
    await eventually(lambda: world.requests)
    late = Outcome(
        invocation_id=frame.request.invocation_id, attempt=1, outcomes=(ok("first, untold"),)
    )
    await world.reply(frame.request, Reply(outcome=late, stored=False))
    await world.bus.flush()
    release.set()
    assert json.loads((await calling)[1]) == "second"


async def test_nobody_who_waits_in_the_shard_is_overtaken(gateway, world, link):
    backlog = BacklogChanged(deployment_id=link.deployment, queued=3, in_flight=1)
    await world.bus.send(BACKLOG.at(deployment_id=link.deployment), backlog)
    await eventually(lambda: _queued(gateway, link.deployment))
    await gateway.call(link.deployment)
    assert len(world.requests) == 1
    assert link.seen == 0


async def _queued(gateway: Web, deployment: str) -> bool:
    shown = await gateway.json("GET", f"/api/v1/deployments/{deployment}")
    return bool(shown["queued"])


async def test_a_cancel_goes_the_same_way(gateway, world, link):
    invocation_id = make_id("invocation", 0, b"0123456789")
    headers = {"Glowplug-Invocation-Id": invocation_id}
    calling = asyncio.ensure_future(gateway.call(link.deployment, headers=headers, status=200))
    frame = await link.receive()
    assert not frame.request.first  # a given id may have been sent before
    await gateway.json("DELETE", f"/api/v1/calls/{invocation_id}")
    assert await link.receive() == CallCancelled(invocation_id=invocation_id)
    headers, _ = await calling
    assert headers["Glowplug-State"] == "cancelled"
    assert world.cancelled == []


async def test_a_closed_container_is_sent_nothing(gateway, world, link):
    closed = SlotsTold(container_id=CONTAINER, deployment_id=link.deployment, free=0, closed=True)
    await link.send(closed)
    await link.send(SlotsTold(container_id=ContainerId("ctr_2"), deployment_id="dep_x", free=1))
    await gateway.call(link.deployment)
    await gateway.call(link.deployment)
    assert world.requests


@pytest.mark.parametrize("token", ["gp_local", "wrong", ""])
async def test_only_the_platforms_own_services_may_link(gateway, token):
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await a_link(gateway, token)


@pytest.mark.parametrize(
    "first",
    [
        b"garbage",
        b"",
        encode(
            SlotsTold(container_id=CONTAINER, deployment_id=DeploymentId("dep_1"), free=1),
            "msgpack",
        ),
    ],
)
async def test_a_link_that_does_not_keep_to_the_words_is_closed(gateway, first):
    async with a_link(gateway) as socket:
        await socket.send_bytes(first)
        message = await socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == 1002


async def test_a_call_that_is_answered_past_its_link_is_not_waited_for(gateway, bus, link):
    """What was printed must not be overtaken, so then the answer comes over the broker."""
    calling, frame = await a_call_through(gateway, link)
    request = frame.request
    outcome = Outcome(invocation_id=request.invocation_id, attempt=1, outcomes=(ok("hi"),))
    to = REPLY.at(instance=request.reply_to, invocation_id=request.invocation_id)
    await bus.send(to, Reply(outcome=outcome))
    assert json.loads((await calling)[1]) == "hi"
    with structlog.testing.capture_logs() as logged:
        await link.socket.close()
        await eventually(lambda: any(one["event"] == "link.ended" for one in logged))
    assert [one["calls"] for one in logged if one["event"] == "link.ended"] == [0]


async def test_a_stopping_gateway_waits_for_its_links_answers(world, nats_server, tmp_path):
    async with aiohttp.ClientSession() as session:
        running = open_gateway_service(nats_server.url, tmp_path)
        web = Web(await running.__aenter__(), session)
        async with a_link(web) as socket:
            worker = LinkedWorker(socket, await web.deployed())
            await worker.send(WorkerLinked(worker_id=WorkerId("w1")))
            await worker.send(worker.slots(1))
            calling, frame = await a_call_through(web, worker)
            stopping = asyncio.ensure_future(running.__aexit__(None, None, None))
            await asyncio.wait([stopping], timeout=0.1)
            await worker.answer(frame.request, "in time")
            assert json.loads((await calling)[1]) == "in time"
            await stopping
