"""Durable work straight to a warm slot, gateway's side: a scripted worker takes it, refuses it, or vanishes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, WorkerId, make_id
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.link import (
    CallCancelled,
    CallRefused,
    CallSent,
    TaskEnded,
    TaskSent,
    WorkerLinked,
)
from glowplug_contracts.messages.record import InvocationRecord, ordered_by, record_headers
from glowplug_contracts.subjects import RECORD
from glowplug_gateway import straight
from glowplug_gateway.at_once import claimed
from glowplug_gateway.recordfeed import RecordFeed

from tests.support.eventually import eventually
from tests.support.gateway_world import ok
from tests.support.linked_worker import CONTAINER, LinkedWorker, a_link

NUMBERS = itertools.count(1)


@contextlib.asynccontextmanager
async def linked(gateway, *, tasks: bool = True):
    """A worker linked for a new deployment, with one warm slot told."""
    deployment = await gateway.deployed(name="add", kind=FunctionKind.FUNCTION)
    async with a_link(gateway) as socket:
        worker = LinkedWorker(socket, deployment)
        await worker.send(WorkerLinked(worker_id=WorkerId("w1"), tasks=tasks))
        await worker.send(worker.slots(1))
        await heard_by(gateway)
        yield worker


async def heard_by(gateway) -> None:
    """Return once the gateway has taken what was sent: what came after it is answered."""
    await gateway.json("GET", "/health")


@pytest.fixture
async def link(gateway):
    async with linked(gateway) as worker:
        yield worker


async def spawn(gateway, link, *args, task: str = "") -> str:
    task = task or make_id("invocation", 0, next(NUMBERS).to_bytes(10))
    async with gateway(
        "POST",
        f"/api/v1/deployments/{link.deployment}/spawn",
        data=json.dumps({"args": args, "kwargs": {}}).encode(),
        headers={"Glowplug-Format": "json", "Glowplug-Invocation-Id": task},
    ) as response:
        assert response.status == 202, await response.read()
    return task


async def stored(bus, task: str):
    at = RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=task)
    return await bus.last(at)


async def write(bus, record: InvocationRecord, sequence: int) -> int:
    """Change a record as a worker or dispatcher does."""
    at = RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=record.invocation_id)
    return await bus.append(
        at, record, expect_last=sequence, headers=record_headers(record), ttl_s=0
    )


def ended(frame: TaskSent, value: object) -> InvocationRecord:
    return msgspec.structs.replace(
        frame.record,
        state=State.SUCCEEDED,
        outcome=ok(value),
        ended_at=4e9,
        order=ordered_by(frame.record, frame.sequence),
    )


async def test_it_is_stored_as_running_there_and_sent_once_that_is_on_disk(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    found = await stored(bus, task)
    assert (found.sequence, found.message) == (frame.sequence, frame.record)
    record = found.message
    assert (record.state, record.attempt, record.order) == (State.RUNNING, 1, 0)
    assert (record.worker_id, record.container_id) == ("w1", CONTAINER)
    assert record.started_at >= record.accepted_at
    assert found.headers["Glowplug-State"] == "running"
    assert (
        len(await bus.all(RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=task))) == 1
    )
    shown = await gateway.json("GET", f"/tasks/{task}/status")
    assert (shown["status"], shown["attempt"]) == ("RUNNING", 1)


async def test_whoever_waits_is_answered_by_what_the_link_tells(gateway, link, monkeypatch):
    """Nothing is stored here, so nothing else can have answered."""
    waits, watch_end = asyncio.Event(), RecordFeed.watch_end

    def watched(feed, invocation_id):
        waits.set()
        return watch_end(feed, invocation_id)

    monkeypatch.setattr(RecordFeed, "watch_end", watched)
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    path = f"/api/v1/tasks/{task}/result?wait_s=60"
    waiting = asyncio.ensure_future(gateway.json("GET", path))
    await waits.wait()
    wrong, right = ended(frame, "wrong"), ended(frame, "right")
    await link.send(TaskEnded(invocation_id="inv_never_sent", record=wrong))
    await link.send(TaskEnded(invocation_id=task, sequence=2, record=right))
    assert await waiting == "right"


async def test_whoever_asks_a_moment_later_is_answered_by_what_the_link_told(gateway, link):
    """Nothing is stored here, so nothing else can have answered."""
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    told = TaskEnded(invocation_id=task, sequence=2, record=ended(frame, "told"))
    await link.send(told)
    await heard_by(gateway)
    for _ in range(2):
        assert await gateway.json("GET", f"/api/v1/tasks/{task}/result?wait_s=60") == "told"


async def test_what_was_told_is_believed_until_the_record_changes(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    first, second = ended(frame, "first"), ended(frame, "second")
    sequence = await write(bus, first, frame.sequence)
    await link.send(TaskEnded(invocation_id=task, sequence=sequence, record=first))
    await heard_by(gateway)
    await write(bus, second, sequence)

    async def changed():
        return await gateway.json("GET", f"/api/v1/tasks/{task}/result?wait_s=60") == "second"

    await eventually(changed)


async def test_an_end_that_is_never_told_is_read(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    waiting = asyncio.ensure_future(gateway.json("GET", f"/api/v1/tasks/{task}/result?wait_s=60"))
    await write(bus, ended(frame, "stored"), frame.sequence)
    assert await waiting == "stored"


async def test_an_end_of_another_task_than_was_sent_answers_nobody(gateway, link, bus):
    first = await spawn(gateway, link, 1)
    frame = await link.receive()
    await link.send(TaskEnded(invocation_id=first, slots=link.slots(1)))
    await heard_by(gateway)
    second = await spawn(gateway, link, 2)
    await link.receive()
    await link.send(TaskEnded(invocation_id=second, sequence=9, record=ended(frame, "wrong")))
    await write(bus, ended(frame, "right"), frame.sequence)
    assert await gateway.json("GET", f"/api/v1/tasks/{first}/result?wait_s=60") == "right"


async def test_what_a_worker_refuses_is_put_back_as_it_was_accepted(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    await link.send(CallRefused(invocation_id=task, reason="full", slots=link.slots(0)))

    async def put_back():
        found = await stored(bus, task)
        return found if found.sequence != frame.sequence else None

    record = (await eventually(put_back)).message
    assert (record.state, record.attempt, record.lost_attempts) == (State.ACCEPTED, 0, 0)
    assert (record.worker_id, record.container_id, record.started_at) == ("", "", 0.0)
    assert (record.order, record.attempts) == (frame.sequence, ())


async def test_a_refusal_of_what_has_changed_since_changes_nothing(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    last = await write(bus, ended(frame, 5), frame.sequence)
    await link.send(CallRefused(invocation_id=task, reason="full", slots=link.slots(1)))
    await spawn(gateway, link, 2)
    await link.receive()  # the refusal was taken: its room was
    assert (await stored(bus, task)).sequence == last


async def test_a_link_that_breaks_leaves_it_to_the_dispatcher(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    await link.socket.close()
    await spawn(gateway, link, 2)
    found = await stored(bus, task)
    assert (found.sequence, found.message.state) == (frame.sequence, State.RUNNING)


async def test_what_was_stored_too_late_to_be_sent_is_put_back(gateway, link, bus, monkeypatch):
    monkeypatch.setattr(straight, "SEND_WITHIN_S", -1.0)
    task = await spawn(gateway, link, 1)

    async def put_back():
        found = await stored(bus, task)
        return found if found.message.state is State.ACCEPTED else None

    assert (await eventually(put_back)).message.attempt == 0
    monkeypatch.undo()
    await write(bus, *running(await stored(bus, task)))
    await goes_straight(gateway, link, bus)  # its slot was not lost


def running(found) -> tuple[InvocationRecord, int]:
    """Return a record as claimed by a worker that it was handed to, and where it stood before."""
    mine = claimed(found.message, WorkerId("w2"), "ctr_2", 5.0)
    return msgspec.structs.replace(
        mine, order=ordered_by(found.message, found.sequence)
    ), found.sequence


async def goes_straight(gateway, link, bus) -> TaskSent:
    """Spawn until one goes straight: news of what waited may still be on their way."""
    frames: list[TaskSent] = []

    async def sent() -> bool:
        task = await spawn(gateway, link)
        found = await stored(bus, task)
        if found.message.state is State.RUNNING:
            frames.append(await link.receive())
        else:
            await write(bus, *running(found))
        return bool(frames)

    await eventually(sent)
    return frames[0]


async def test_what_waits_is_not_overtaken_by_what_comes_later(gateway, link, bus):
    first = await spawn(gateway, link, 1)
    await link.receive()
    second = await spawn(gateway, link, 2)
    assert (await stored(bus, second)).message.state is State.ACCEPTED  # the slot is taken
    await link.send(TaskEnded(invocation_id=first, slots=link.slots(1)))
    await heard_by(gateway)
    third = await spawn(gateway, link, 3)
    assert (await stored(bus, third)).message.state is State.ACCEPTED  # the second waits before it
    for task in (second, third):
        await write(bus, *running(await stored(bus, task)))
    await goes_straight(gateway, link, bus)


async def test_nobody_who_waits_by_a_dispatchers_word_is_overtaken(gateway, world, link, bus):
    await world.report(link.deployment, queued=3)

    async def queued() -> bool:
        shown = await gateway.json("GET", f"/api/v1/deployments/{link.deployment}")
        return bool(shown["queued"])

    await eventually(queued)
    assert (await stored(bus, await spawn(gateway, link))).message.state is State.ACCEPTED


async def test_the_same_id_again_is_the_same_task_and_costs_no_slot(gateway, link, bus):
    task = await spawn(gateway, link, 1)
    frame = await link.receive()
    await link.send(TaskEnded(invocation_id=task, slots=link.slots(1)))
    await heard_by(gateway)
    assert await spawn(gateway, link, 1, task=task) == task
    assert (await stored(bus, task)).sequence == frame.sequence
    assert (await goes_straight(gateway, link, bus)).record.invocation_id != task


async def test_a_cancel_is_written_and_goes_the_same_way(gateway, world, link, bus):
    task = await spawn(gateway, link, 1)
    await link.receive()
    assert (await gateway.json("DELETE", f"/tasks/{task}"))["status"] == "CANCELLED"
    assert await link.receive() == CallCancelled(invocation_id=task)
    record = (await stored(bus, task)).message
    assert (record.state, [line.number for line in record.attempts]) == (State.CANCELLED, [1])
    assert world.cancelled == []


async def test_a_worker_of_an_older_version_is_sent_calls_only(gateway, bus):
    async with linked(gateway, tasks=False) as worker:
        task = await spawn(gateway, worker, 1)
        found = await stored(bus, task)
        assert found.message.state is State.ACCEPTED
        calling = asyncio.ensure_future(gateway.call(worker.deployment))
        frame = await worker.receive()  # the slot was not lost
        assert isinstance(frame, CallSent)
        await worker.answer(frame.request, "hello")
        assert json.loads((await calling)[1]) == "hello"
