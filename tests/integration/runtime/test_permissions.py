"""The registry's permissions let each service do its work and nothing else, on a real server."""

from __future__ import annotations

import nats
import pytest
from glowplug_contracts.messages.worker import LeaseHeld
from glowplug_contracts.permissions import APP, SERVICES, permissions
from glowplug_contracts.streams import GENERATIONS, LEASES, TOKENS
from glowplug_contracts.subjects import CALL
from glowplug_local.broker import accounts_config
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.topology import ensure_topology

from tests.conformance.test_bus import a_request, call_at
from tests.support.eventually import eventually
from tests.support.nats import open_nats_server


@pytest.fixture
def guarded_server(tmp_path):
    secrets = {service: f"secret-{service}" for service in (*SERVICES, APP)}
    with open_nats_server(tmp_path / "nats", accounts_config(secrets)) as server:
        yield server


def connect(server, service):
    return open_bus(server.url, instance="x", credentials=f"{service}:secret-{service}")


async def test_each_service_can_do_its_own_work(guarded_server):
    async with connect(guarded_server, "scheduler") as scheduler:
        await ensure_topology(scheduler, shards=1)
        await scheduler.bucket(LEASES).create("shard-0", LeaseHeld(holder="s", generation=1))
        async with connect(guarded_server, "gateway") as gateway:
            await gateway.append(call_at(1), a_request(1))
            assert await gateway.bucket(TOKENS).entries() == []
        taken = []

        async def take(delivery):
            await delivery.ack()
            taken.append(delivery.message)

        work = await scheduler.take_work(CALL.pattern(shard=0), take, generation=1)
        await eventually(lambda: taken)
        await work.close()


async def test_a_worker_can_neither_take_requests_nor_write_leases(guarded_server):
    async with connect(guarded_server, "scheduler") as scheduler:
        await ensure_topology(scheduler, shards=1)
        async with connect(guarded_server, "worker") as worker:
            client = worker.client
            await client.publish(call_at(1).subject, b"forged")
            await client.publish("$KV.tokens.x", b"forged")
            await client.publish("$JS.API.STREAM.DELETE.RECORDS_0", b"{}")
            await client.flush()
        assert await scheduler.last(call_at(1)) is None
        assert await scheduler.bucket(GENERATIONS).entries() == []
        names = await scheduler.api("STREAM.NAMES", {})
        assert "RECORDS_0" in names["streams"]


async def test_a_users_program_may_publish_events_and_nothing_else(guarded_server):
    """With the client that such programs use, and its own inboxes."""
    async with connect(guarded_server, "scheduler") as scheduler:
        await ensure_topology(scheduler, shards=1)
        refused: list[str] = []

        async def on_error(error: Exception) -> None:
            refused.append(str(error))

        client = await nats.connect(
            guarded_server.url, user=APP, password="secret-app", error_cb=on_error
        )
        stream = client.jetstream()
        headers = {"ce-id": "1", "ce-source": "/p", "ce-type": "t", "ce-specversion": "1.0"}
        acked = await stream.publish("v1.ingress.default", b"x", headers=headers)
        assert (acked.stream, acked.seq) == ("EVENT_INGRESS", 1)
        for forged in (call_at(1).subject, "v1.event.0.default.evt_1", "$JS.API.STREAM.LIST"):
            await client.publish(forged, b"{}")
        await client.subscribe("v1.>")
        await client.flush()
        await eventually(lambda: len(refused) == 4)
        assert await scheduler.last(call_at(1)) is None
        await client.close()


def test_only_the_scheduler_may_make_streams():
    for service in SERVICES:
        makes = "$JS.API.>" in permissions(service).publish
        assert makes == (service == "scheduler")


async def test_making_the_topology_again_changes_nothing(guarded_server):
    async with connect(guarded_server, "scheduler") as scheduler:
        await ensure_topology(scheduler, shards=1)
        before = await scheduler.api("STREAM.LIST", {})
        await ensure_topology(scheduler, shards=1)
        after = await scheduler.api("STREAM.LIST", {})
        assert [s["config"] for s in before["streams"]] == [s["config"] for s in after["streams"]]
