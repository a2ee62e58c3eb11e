"""Events on a real broker: routed once, batched, taken in from programs, through changes of owner."""

from __future__ import annotations

import asyncio
import itertools
import json

import msgspec
from glowplug_contracts.cloudevents import event_key
from glowplug_contracts.errors import OverloadedError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.deployment import DeploymentState, FunctionIndex, FunctionKind
from glowplug_contracts.messages.event import StoredEvent
from glowplug_contracts.streams import (
    DEPLOYMENTS,
    EVENT_INGRESS,
    EVENTS,
    FUNCTIONS,
    RECORDS,
    STREAMS,
)
from glowplug_contracts.subjects import EVENT, INGRESS, RECORD
from glowplug_contracts.triggered import REFUSED_TYPE, deployment_event, one_event_id
from glowplug_runtime.topology import stream_config

from tests.integration.scheduler.conftest import open_scheduler
from tests.support.builders_events import a_trigger, an_event
from tests.support.builders_scale import WORKSPACE
from tests.support.eventually import eventually

WINDOW_S = 30.0


async def deploy(bus, deployment, *, tell: bool = True) -> None:
    """What the gateway writes, in its order."""
    name, made = deployment.spec.name, deployment.deployment_id
    await bus.bucket(DEPLOYMENTS).put(f"default.{made}", deployment)
    known = await bus.bucket(FUNCTIONS).get(f"default.{name}")
    versions = known.value.versions if known is not None and known.value is not None else {}
    index = FunctionIndex(
        name=name,
        workspace=WORKSPACE,
        kind=FunctionKind.ON_EVENT,
        latest=made,
        versions=versions | {deployment.version: made},
        next_version=deployment.version + 1,
    )
    await bus.bucket(FUNCTIONS).put(f"default.{name}", index)
    if tell:
        await publish(bus, deployment_event(name, made, deleted=False))


async def delete(bus, deployment) -> None:
    gone = msgspec.structs.replace(deployment, state=DeploymentState.DELETED)
    await bus.bucket(FUNCTIONS).delete(f"default.{deployment.spec.name}")
    await bus.bucket(DEPLOYMENTS).put(f"default.{deployment.deployment_id}", gone)
    await publish(bus, deployment_event(deployment.spec.name, gone.deployment_id, deleted=True))


async def publish(bus, event) -> None:
    key = event_key(WORKSPACE, event.source, event.id)
    stored = StoredEvent(event_id=key, workspace=WORKSPACE, event=event, accepted_at=1.0)
    at = EVENT.at(shard=0, workspace="default", event_id=key)
    await bus.append(at, stored, expect_last=0)


async def records(bus) -> list:
    """Every record there is, oldest first."""
    found = []

    async def on_record(delivery) -> None:
        if delivery.message is not None:
            found.append(delivery.message)

    following = await bus.follow(RECORD.pattern(shard=0), on_record, start="last_per_subject")
    await following.caught_up()
    await following.close()
    return found


def event_ids(record) -> list[str]:
    given = json.loads(record.input.args.data)["args"][0]
    return [each["id"] for each in (given if isinstance(given, list) else [given])]


async def delivered(bus, name: str = "t") -> list[list[str]]:
    """What each record of a trigger delivers."""
    found = await records(bus)
    return [event_ids(one) for one in found if one.headers["glowplug-trigger"] == name]


async def test_an_event_becomes_an_invocation_of_each_trigger_that_wants_it(bus, nats_server):
    async with open_scheduler(nats_server.url):
        await deploy(
            bus,
            a_trigger("t", retry=msgspec.structs.replace(a_trigger().spec.retry, max_retries=2)),
        )
        await deploy(bus, a_trigger("other", "org.**"))
        await publish(bus, an_event("1", subject="a/b"))
        await publish(bus, an_event("2", type="org.example.x"))
        await eventually(lambda: delivered(bus, "other"))
        first, second = sorted(await records(bus), key=event_ids)
        key = event_key(WORKSPACE, "/tests", "1")
        assert first.invocation_id == one_event_id(WORKSPACE, "t", key)
        assert json.loads(first.input.args.data) == {
            "takes": "event",
            "args": [
                {
                    "specversion": "1.0",
                    "id": "1",
                    "source": "/tests",
                    "type": "com.example.made",
                    "subject": "a/b",
                    "datacontenttype": "application/json",
                    "data": {"number": 1},
                }
            ],
            "kwargs": {},
        }
        assert first.headers == {
            "glowplug-trigger": "t",
            "ce-id": "1",
            "ce-source": "/tests",
            "ce-type": "com.example.made",
            "ce-subject": "a/b",
        }
        assert (first.retry.max_retries, first.dead_letter) == (2, True)
        assert (second.deployment_id, event_ids(second)) == ("dep_other_1", ["2"])


async def test_only_events_after_the_deploy_count_and_none_is_missed(bus, nats_server):
    async with open_scheduler(nats_server.url):
        await publish(bus, an_event("before"))
        await deploy(bus, a_trigger())
        await publish(bus, an_event("after"))
        await eventually(lambda: delivered(bus))
        assert await delivered(bus) == [["after"]]
    async with open_scheduler(nats_server.url, "s2"):
        await publish(bus, an_event("later"))
        await eventually(lambda: _count(bus, 2))
        assert sorted(await delivered(bus)) == [["after"], ["later"]]


async def _count(bus, number: int, name: str = "t") -> bool:
    return len(await delivered(bus, name)) >= number


async def test_a_new_version_takes_over_and_a_deleted_one_ends(bus, nats_server):
    async with open_scheduler(nats_server.url):
        first, second = a_trigger(), a_trigger(version=2)
        await deploy(bus, first)
        await publish(bus, an_event("1"))
        await eventually(lambda: _count(bus, 1))
        await deploy(bus, second)
        await publish(bus, an_event("2"))
        await eventually(lambda: _count(bus, 2))
        await delete(bus, second)
        await publish(bus, an_event("3"))
        await deploy(bus, a_trigger("end"))
        await publish(bus, an_event("4"))
        await eventually(lambda: delivered(bus, "end"))
        found = {event_ids(one)[0]: one.deployment_id for one in await records(bus)}
        assert found == {"1": "dep_t_1", "2": "dep_t_2", "4": "dep_end_1"}


async def test_a_trigger_whose_word_never_came_is_found(bus, nats_server, monkeypatch):
    monkeypatch.setattr("glowplug_scheduler.routing.LOOK_S", 0.1)
    async with open_scheduler(nats_server.url):
        await deploy(bus, a_trigger(), tell=False)

        keys = itertools.count()

        async def reached() -> bool:
            await publish(bus, an_event(str(next(keys))))
            return bool(await delivered(bus))

        await eventually(reached)


async def test_a_batch_is_full_or_its_window_is_over(bus, nats_server):
    async with open_scheduler(nats_server.url):
        await deploy(bus, a_trigger("full", batch=3, window_s=WINDOW_S))
        await deploy(bus, a_trigger("short", batch=100, window_s=0.2))
        for number in range(4):
            await publish(bus, an_event(str(number)))
        await eventually(lambda: delivered(bus, "full"))
        assert await delivered(bus, "full") == [["0", "1", "2"]]
        await eventually(lambda: delivered(bus, "short"))
        everything = [one for batch in await delivered(bus, "short") for one in batch]
        assert everything == sorted(set(everything))
        (record,) = [o for o in await records(bus) if o.headers["glowplug-trigger"] == "full"]
        assert record.events == 3
        assert json.loads(record.input.args.data)["takes"] == "events"


async def test_another_owner_goes_on_with_an_open_batch_and_repeats_nothing(bus, nats_server):
    async with open_scheduler(nats_server.url, "s1"):
        await deploy(bus, a_trigger("full", batch=3, window_s=WINDOW_S))
        await deploy(bus, a_trigger("singly"))
        for number in range(5):
            await publish(bus, an_event(str(number)))
        await eventually(lambda: _count(bus, 5, "singly"))
        await eventually(lambda: delivered(bus, "full"))
    async with open_scheduler(nats_server.url, "s2"):
        await publish(bus, an_event("5"))
        await eventually(lambda: _count(bus, 2, "full"))
        assert await delivered(bus, "full") == [["0", "1", "2"], ["3", "4", "5"]]
        assert sorted(await delivered(bus, "singly")) == [[str(n)] for n in range(6)]


async def test_a_full_record_stream_stalls_the_router_and_nothing_is_skipped(bus, nats_server):
    async with open_scheduler(nats_server.url):
        await deploy(bus, a_trigger())
        await publish(bus, an_event("1"))
        await eventually(lambda: delivered(bus))
        full = stream_config(RECORDS, 0, 1) | {"max_msgs": 1}
        await bus.api("STREAM.UPDATE.RECORDS_0", full)
        for number in range(2, 6):
            await publish(bus, an_event(str(number)))
        await asyncio.sleep(0)
        assert len(await delivered(bus)) == 1
        # The scheduler itself puts the stream right again: it keeps the topology as declared.
        await eventually(lambda: _count(bus, 5))
        assert sorted(await delivered(bus)) == [[str(n)] for n in range(1, 6)]


async def test_programs_publish_past_the_gateway(bus, nats_server):
    async with open_scheduler(nats_server.url):
        await deploy(bus, a_trigger("t", "com.**"))
        await deploy(bus, a_trigger("refused", REFUSED_TYPE))
        structured = {"specversion": "1.0", "id": "s", "source": "/p", "type": "com.x", "data": [1]}
        await raw(bus, json.dumps(structured).encode())
        await raw(
            bus,
            b"\x00\x01",
            {
                "CE-Id": "b",
                "ce-source": "/p",
                "Ce-Type": "com.y",
                "ce-specversion": "1.0",
                "ce-subject": "50%2525",
                "Content-Type": "application/octet-stream",
            },
        )
        await raw(bus, b"no event at all")
        await raw(bus, json.dumps(structured | {"id": "own", "type": "glowplug.x"}).encode())
        # What strangers write into headers must not look like the broker's own words.
        tricks = {"Status": "100", "Nats-Consumer-Stalled": "v1.probe.services"}
        await raw(bus, json.dumps(structured | {"id": "t"}).encode(), tricks)
        await eventually(lambda: _count(bus, 3))
        await eventually(lambda: _count(bus, 2, "refused"))
        found = {tuple(event_ids(one)): one for one in await records(bus)}
        assert {("s",), ("b",), ("t",)} <= set(found)
        binary = json.loads(found[("b",)].input.args.data)["args"][0]
        assert (binary["data_base64"], binary["subject"]) == ("AAE=", "50%25")
        await eventually(lambda: _empty(bus))


async def _empty(bus) -> bool:
    return (await bus.stream_info(EVENT_INGRESS))["messages"] == 0


async def raw(bus, data: bytes, headers: dict[str, str] | None = None) -> None:
    """Publish as a program does, and wait for the broker's word that it is on disk."""
    to = INGRESS.at(workspace=WorkspaceId("default")).subject
    answer = await bus.client.request(to, data, timeout_s=5, headers=headers)
    assert json.loads(answer.data)["stream"] == "EVENT_INGRESS"


async def test_the_oldest_handled_events_make_room_for_new_ones(bus, nats_server, monkeypatch):
    small = msgspec.structs.replace(EVENTS, max_bytes=20_000)
    declared = tuple(small if one is EVENTS else one for one in STREAMS)
    monkeypatch.setattr("glowplug_runtime.topology.STREAMS", declared)
    monkeypatch.setattr("glowplug_scheduler.service.TRIM_S", 0.02)
    await bus.api("STREAM.DELETE.EVENTS", {})
    async with open_scheduler(nats_server.url):
        await deploy(bus, a_trigger())
        for number in range(150):  # some three times what there is room for

            async def stored(number: int = number) -> bool:
                try:
                    await publish(bus, an_event(str(number)))
                except OverloadedError:  # full just now; nothing may go that waits for its router
                    return False
                return True

            await eventually(stored)
        await eventually(lambda: _count(bus, 150))
        assert sorted(await delivered(bus), key=lambda ids: int(ids[0])) == [
            [str(n)] for n in range(150)
        ]
        info = await bus.stream_info(EVENTS)
        assert info["first_sequence"] > 1
        assert info["bytes"] <= small.max_bytes
