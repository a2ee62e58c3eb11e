"""Calls as records: listed by filters and pages, rebuilt from the streams, followed as they change."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import msgspec
import pytest
from glowplug_contracts.messages.dispatch import InvocationFact, InvocationFacts
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import Progress, ProgressMade
from glowplug_contracts.subjects import FACTS, PROGRESS

from tests.support.builders_records import DEPLOYMENT, a_record, ended, record_at, task_id, write
from tests.support.eventually import eventually
from tests.support.gateway_world import Web, open_gateway_service

PARENT = task_id(99)


async def listed(gateway, query: str = "") -> list[str]:
    answer = await gateway.json("GET", f"/api/v1/tasks?limit=100&{query}")
    return [one["task_id"] for one in answer["tasks"]]


def ids(*numbers: int) -> list[str]:
    return [task_id(number) for number in numbers]


@pytest.fixture
async def some(gateway, bus):
    """Six records, and one interactive call that only facts tell of."""
    await write(bus, a_record(1, State.SUCCEEDED))
    await write(bus, a_record(2, State.FAILED, tags={"tenant": "a", "vip": ""}))
    await write(bus, a_record(3, name="other", app="shop", parent=PARENT))
    await write(bus, a_record(4, State.DEAD, dead_letter=False))
    await write(bus, a_record(5, State.RUNNING, tags={"tenant": "b"}))
    await write(bus, a_record(6, workspace="foreign"))
    fact = InvocationFact(
        invocation_id=task_id(7),
        deployment_id=DEPLOYMENT,
        workspace="default",
        state=State.SUCCEEDED,
        attempt=1,
        at=1_007.0,
    )
    await bus.append(FACTS.at(worker_id="wrk_1"), InvocationFacts(facts=(fact,)))
    await eventually(lambda: _lists(gateway, 6))


async def _lists(gateway, many: int) -> bool:
    return len(await listed(gateway)) == many


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [7, 5, 4, 3, 2, 1]),
        ("kind=interactive", [7]),
        ("kind=durable", [5, 4, 3, 2, 1]),
        ("deployment=pages", [5, 4, 2, 1]),
        ("queue=other", [3]),
        (f"deployment={DEPLOYMENT}&kind=durable", [5, 4, 3, 2, 1]),
        ("app=shop", [3]),
        ("state=failed", [4, 2]),
        ("state=running,pending", [5, 3]),
        ("state=running&state=completed&kind=durable", [5, 1]),
        ("tag=tenant", [5, 2]),
        ("tag=tenant%3Da", [2]),
        ("tag=vip", [2]),
        ("tag=nobody", []),
        (f"parent={PARENT}", [3]),
        ("since=1003.5", [7, 5, 4]),
        ("error_type=ValueError", [4, 2]),
        ("app=books&state=failed&tag=tenant", [2]),
    ],
)
async def test_a_list_holds_what_its_filters_say(gateway, some, query, numbers):
    assert await listed(gateway, query) == ids(*numbers)


@pytest.mark.parametrize(
    "query",
    ["state=odd", "kind=odd", "parent=x", "cursor=x", "since=x", "deployment=a.b", "limit=0"],
)
async def test_a_filter_that_makes_no_sense_is_said(gateway, query):
    await gateway.json("GET", f"/api/v1/tasks?{query}", status=422)


async def test_pages_show_every_call_once_while_new_ones_come(gateway, bus):
    for number in range(20):
        await write(bus, a_record(number))
    await eventually(lambda: _lists(gateway, 20))
    seen, cursor = [], ""
    while cursor is not None:
        page = await gateway.json("GET", f"/api/v1/tasks?limit=6&cursor={cursor}")
        seen += [one["task_id"] for one in page["tasks"]]
        cursor = page["cursor"]
        await write(bus, a_record(100 + len(seen)))
    assert seen == ids(*reversed(range(20)))


async def test_the_gateway_that_wrote_a_task_lists_it_at_once(gateway, bus):
    deployment = await gateway.deployed(name="add", kind="task_queue", app="books")
    for _ in range(20):
        task = (await gateway.json("POST", "/taskqueue/add", status=202, json={}))["task_id"]
        answer = await gateway.json("GET", "/api/v1/tasks?limit=1")
        assert [one["task_id"] for one in answer["tasks"]] == [task]
    assert answer["tasks"][0]["deployment_id"] == deployment
    assert answer["lag"] == 0
    assert len(await listed(gateway, "queue=add&app=books")) == 20


@contextlib.asynccontextmanager
async def another_gateway(nats_server, tmp_path, data):
    async with (
        open_gateway_service(
            nats_server.url, tmp_path, instance="gateway-2", data_dir=str(data)
        ) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Web(url, session)


async def test_lists_survive_the_gateway_and_the_loss_of_its_file(
    world, bus, nats_server, tmp_path
):
    for number in range(4):
        await write(bus, a_record(number, State.FAILED if number else State.ACCEPTED))
    async with another_gateway(nats_server, tmp_path, tmp_path / "data") as gateway:
        await eventually(lambda: _lists(gateway, 4))
    found = await bus.last(record_at(task_id(0)))
    await write(bus, ended(found.message, State.SUCCEEDED), found.sequence)
    found = await bus.last(record_at(task_id(1)))
    await bus.remove(record_at(task_id(1)), expect_last=found.sequence)
    for data in ("data", "empty"):
        async with another_gateway(nats_server, tmp_path, tmp_path / data) as gateway:
            await eventually(lambda gateway=gateway: _lists(gateway, 3))
            assert await listed(gateway, "state=completed") == ids(0)
            assert await listed(gateway, "state=failed") == ids(3, 2)


# -- following one --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def subscribed(gateway, task: str, last: str = "", show: str = "state"):
    """Yield a function that returns the next event: its id, and what it shows; None at the end."""
    headers = {"Last-Event-ID": last} if last else {}
    async with gateway("GET", f"/tasks/{task}/subscribe", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"

        async def event():
            found = {}
            while True:
                line = (await asyncio.wait_for(response.content.readline(), 20)).decode()
                if not line:
                    return None
                if line == "\n" and found:
                    told = json.loads(found["data"])
                    return found["id"], told[show]
                name, _, value = line.strip().partition(": ")
                if name:
                    found[name] = value

        yield event


async def test_a_subscriber_is_told_of_every_change_until_the_end_and_goes_on_where_it_was(
    gateway, bus
):
    record = a_record(1)
    first = await write(bus, record)
    async with subscribed(gateway, task_id(1)) as event:
        assert await event() == (str(first), "pending")
        running = msgspec.structs.replace(record, state=State.RUNNING, attempt=1)
        second = await write(bus, running, first)
        assert await event() == (str(second), "running")
    async with subscribed(gateway, task_id(1), last=str(second)) as event:
        third = await write(bus, ended(running, State.FAILED), second)
        assert await event() == (str(third), "failed")  # and not "running" again
        assert await event() is None
    async with subscribed(gateway, task_id(1), last=str(first)) as event:
        assert await event() == (str(third), "failed")
    headers = {"Last-Event-ID": str(third)}
    async with gateway("GET", f"/tasks/{task_id(1)}/subscribe", headers=headers) as response:
        assert response.status == 204


async def test_progress_is_told_while_it_runs_and_not_twice(gateway, bus):
    sequence = await write(bus, a_record(1, State.RUNNING, attempt=1))
    said = [
        Progress(fraction=0.25, message="a", at=5.0),
        Progress(fraction=0.5, message="b", at=6.0),
    ]

    async def say(progress: Progress) -> None:
        made = ProgressMade(invocation_id=task_id(1), attempt=1, progress=progress)
        to = PROGRESS.at(shard=0, workspace="default", invocation_id=task_id(1))
        await bus.append(to, made)

    async with subscribed(gateway, task_id(1), show="progress") as event:
        assert await event() == (str(sequence), 0.0)
        await say(said[0])
        first, shown = await event()
        assert shown == 25.0
    async with subscribed(gateway, task_id(1), last=first, show="progress") as event:
        await say(said[1])
        assert (await event())[1] == 50.0


async def test_only_ones_own_tasks_can_be_followed(gateway, bus):
    await write(bus, a_record(1, workspace="foreign"))
    await write(bus, a_record(2))
    for path in (
        f"/tasks/{task_id(1)}/subscribe",
        f"/api/v1/task/foreign/{task_id(1)}/subscribe",
        f"/api/v1/task/foreign/{task_id(2)}",
    ):
        await gateway.json("GET", path, status=404)
    mine = f"/api/v1/task/default/{task_id(2)}"
    assert (await gateway.json("GET", mine))["state"] == "pending"
    await gateway.json("DELETE", f"/api/v1/task/foreign/{task_id(2)}", status=404)
    assert (await gateway.json("DELETE", mine))["state"] == "cancelled"
