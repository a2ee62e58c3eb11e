"""Events over HTTP: accepted in three modes, once; listed, followed, replayed."""

from __future__ import annotations

import json

import msgspec
import pytest
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.event import TriggerSpec
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import record_headers
from glowplug_contracts.streams import EVENTS
from glowplug_contracts.subjects import EVENT, RECORD

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
EVENT_1 = {"specversion": "1.0", "id": "1", "source": "/orders", "type": "com.shop.made", "data": 5}


async def send(gateway, *events, status: int = 202):
    body = json.dumps(list(events) if len(events) != 1 else events[0])
    kind = STRUCTURED if len(events) == 1 else BATCH
    return await gateway.json(
        "POST", "/events", data=body, headers={"Content-Type": kind}, status=status
    )


def numbered(number: int, **more) -> dict:
    return EVENT_1 | {"id": str(number)} | more


async def stored(bus, event_id: str):
    found = await bus.last(EVENT.at(shard=0, workspace="default", event_id=event_id))
    return found.message.event


async def test_the_binary_mode(gateway, bus):
    headers = {
        "CE-SpecVersion": "1.0",
        "ce-id": "a%20b",
        "Ce-Source": "/orders",
        "ce-type": '"com.shop.made"',
        "ce-subject": "Euro%20%E2%82%AC%20%2525",
        "ce-traceid": "7",
        "Content-Type": "application/json",
    }
    answer = await gateway.json("POST", "/events", data=b'{"n":1}', headers=headers, status=202)
    event = await stored(bus, answer["id"])
    assert (event.id, event.source, event.type) == ("a b", "/orders", "com.shop.made")
    assert (event.subject, event.extensions) == ("Euro € %25", {"traceid": "7"})
    assert (event.form, event.data) == ("json", b'{"n":1}')


async def test_the_structured_and_the_batch_mode(gateway, bus):
    one = await send(gateway, EVENT_1)
    assert one == {"id": one["ids"][0], "ids": one["ids"]}
    many = await send(gateway, EVENT_1, numbered(2), numbered(3))
    assert many["ids"][0] == one["id"], "the same source and id is the same event"
    assert len(set(many["ids"])) == 3
    assert (await bus.stream_info(EVENTS))["messages"] == 3
    assert await gateway.json(
        "POST", "/events", data=b"[]", headers={"Content-Type": BATCH}, status=202
    ) == {"ids": []}


@pytest.mark.parametrize(
    ("headers", "body", "word"),
    [
        ({}, b"{}", "specversion"),
        ({"Content-Type": STRUCTURED}, b"nonsense", "JSON"),
        ({"Content-Type": STRUCTURED}, b'{"specversion":"1.0","id":"1","type":"t"}', "source"),
        ({"Content-Type": "application/cloudevents+xml"}, b"<x/>", "not read"),
        ({"Content-Type": BATCH}, b'[{"specversion":"1.0"}]', "event 0"),
        (
            {"Content-Type": STRUCTURED},
            json.dumps(EVENT_1 | {"source": "glowplug:x"}).encode(),
            "own",
        ),
        (
            {"Content-Type": STRUCTURED},
            json.dumps(EVENT_1 | {"data": "x" * 300_000}).encode(),
            "bytes",
        ),
        ({"Content-Type": BATCH}, json.dumps([EVENT_1] * 1_001).encode(), "1001"),
    ],
)
async def test_what_is_no_event_is_refused(gateway, bus, headers, body, word):
    answer = await gateway.json("POST", "/events", data=body, headers=headers, status=422)
    assert answer["error"]["code"] == "event.invalid"
    assert word in answer["error"]["message"]
    assert (await bus.stream_info(EVENTS))["messages"] == 0


async def test_events_need_a_token(gateway):
    for method, path in (("POST", "/events"), ("GET", "/api/v1/events")):
        async with gateway(method, path, token=None) as response:
            assert response.status == 401


async def test_events_are_listed_by_filter_and_cursor(gateway):
    await send(
        gateway, *(numbered(n, subject=f"a/{n}", type=f"com.shop.{n % 2}") for n in range(6))
    )

    async def ids(query: str) -> tuple[list[str], str]:
        found = await gateway.json("GET", f"/api/v1/events?{query}")
        return [one["event"]["id"] for one in found["events"]], found["cursor"]

    assert (await ids(""))[0] == ["0", "1", "2", "3", "4", "5"]
    assert (await ids("limit=2"))[0] == ["4", "5"]
    assert (await ids("type=com.shop.1"))[0] == ["1", "3", "5"]
    assert (await ids("subject=a/*&source=/orders&type=*.*.0"))[0] == ["0", "2", "4"]
    assert (await ids("source=/nobody"))[0] == []
    page, cursor = await ids("since=0&limit=4")
    assert page == ["0", "1", "2", "3"]
    assert (await ids(f"cursor={cursor}"))[0] == ["4", "5"]
    assert (await ids("since=2999-01-01T00:00:00Z"))[0] == []
    for wrong in ("cursor=x", "since=yesterday", "since=2020-01-01T00:00:00", "type=a%5C"):
        await gateway.json("GET", f"/api/v1/events?{wrong}", status=422)
    shown = (await gateway.json("GET", "/api/v1/events"))["events"][0]
    again = await gateway.json("GET", f"/api/v1/events/{shown['event_id']}")
    assert again["event"] == numbered(0, subject="a/0", type="com.shop.0")
    await gateway.json("GET", "/api/v1/events/evt_00000000000000000000000000", status=404)


async def test_events_are_followed_as_they_come(gateway):
    await send(gateway, numbered(1))
    async with gateway("GET", "/api/v1/events?follow=1&type=com.**") as response:
        await send(gateway, numbered(2, type="org.x"), numbered(3))
        line = json.loads(await response.content.readline())
        assert line["event"]["id"] == "3"


async def replay(gateway, status: int = 200, **asked):
    async with gateway("POST", "/api/v1/events/replay", data=json.dumps(asked)) as response:
        body = await response.read()
        assert response.status == status, body
        return [json.loads(line) for line in body.splitlines()]


async def test_events_are_delivered_again_once_per_replay(gateway, bus):
    trigger = TriggerSpec(patterns=("com.shop.*",), batch=10)
    kind = FunctionKind.ON_EVENT
    await gateway.deployed(name="audit", kind=kind, trigger=trigger)
    await gateway.deployed(name="other", kind=kind, trigger=TriggerSpec(patterns=("org.**",)))
    await send(gateway, numbered(1), numbered(2, type="com.else.x"), numbered(3, subject="s"))
    *lines, done = await replay(gateway)
    assert [(one["id"], one["trigger"], one["repeated"]) for one in lines] == [
        ("1", "audit", False),
        ("3", "audit", False),
    ]
    assert (done["created"], done["repeated"], done["cursor"]) == (2, 0, 0)
    found = await bus.last(
        RECORD.at(shard=0, workspace="default", invocation_id=lines[0]["task_id"])
    )
    assert json.loads(found.message.input.args.data)["args"][0][0]["id"] == "1"
    assert found.message.events == 1
    ended = msgspec.structs.replace(found.message, state=State.FAILED)
    await bus.append(
        RECORD.at(shard=0, workspace="default", invocation_id=lines[0]["task_id"]),
        ended,
        expect_last=found.sequence,
        headers=record_headers(ended),
    )
    again = await replay(gateway)
    assert (again[-1]["created"], again[-1]["repeated"]) == (0, 2)
    other = await replay(gateway, id="second", subject="s", trigger="audit")
    assert [(one["id"], one["repeated"]) for one in other[:-1]] == [("3", False)]
    assert (await replay(gateway, since="2999-01-01T00:00:00Z"))[-1]["events"] == 0
    await replay(gateway, status=404, trigger="nobody")
    await replay(gateway, status=422, id="not a token")
    await replay(gateway, status=422, unknown=1)


async def test_a_trigger_is_checked_when_it_is_deployed(gateway):
    kind = FunctionKind.ON_EVENT
    for wrong in (
        TriggerSpec(patterns=()),
        TriggerSpec(patterns=("a\\",)),
        TriggerSpec(patterns=("a",), batch=100_000),
        TriggerSpec(patterns=("a",), window_s=3.0),
    ):
        lines = await gateway.deploy(status=422, name="bad", kind=kind, trigger=wrong)
        assert lines[0]["error"]["code"] == "event.bad_pattern"
    await gateway.deploy(status=422, name="bad", kind=kind)
    await gateway.deploy(status=422, name="bad", trigger=TriggerSpec(patterns=("a",)))


async def test_deploying_and_deleting_a_trigger_stand_in_the_stream(gateway):
    kind = FunctionKind.ON_EVENT
    made = await gateway.deployed(name="audit", kind=kind, trigger=TriggerSpec(patterns=("a",)))
    await gateway.json("DELETE", "/api/v1/deployments/audit")
    found = (await gateway.json("GET", "/api/v1/events"))["events"]
    assert [(one["event"]["type"], one["event"]["id"]) for one in found] == [
        ("glowplug.deployment.deployed", f"{made}/deployed"),
        ("glowplug.deployment.deleted", f"{made}/deleted"),
    ]
