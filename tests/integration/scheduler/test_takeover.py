"""What a new owner of a shard reads: all that lives, little else, and again what its reader left out."""

from __future__ import annotations

from glowplug_contracts.messages.invocation import State
from glowplug_contracts.streams import FLOORS, RECORDS
from glowplug_runtime.follower import Follower
from glowplug_scheduler import auditing
from glowplug_scheduler.dispatch import RecordSeen
from glowplug_scheduler.record_reading import RecordReading

from tests.integration.scheduler.conftest import open_scheduler
from tests.integration.scheduler.test_service import deploy, ids, settled, spawn
from tests.support.builders_records import a_record, write
from tests.support.eventually import eventually
from tests.support.fake_worker import open_fake_worker

ENDED = 600


async def floor_of(bus):
    found = await bus.bucket(FLOORS).get("shard-0")
    return found.value.floor if found and found.value else 0


async def test_ended_records_are_not_read_by_the_next_owner(bus, nats_server, monkeypatch):
    monkeypatch.setattr(auditing, "AUDIT_SOON_S", 0.1)
    monkeypatch.setattr("glowplug_scheduler.dispatch_audit.AUDIT_EVERY_S", 0.1)
    read = []
    event_of = RecordReading.event_of

    def counted(self, delivery):
        event = event_of(self, delivery)
        read.append(event)
        return event

    monkeypatch.setattr(RecordReading, "event_of", counted)
    url = nats_server.url
    async with open_scheduler(url, "s1"):
        await deploy(bus, target=0)
        await spawn(bus, "inv_first")
        for number in range(ENDED):
            await write(bus, a_record(number, State.SUCCEEDED))
        await spawn(bus, "inv_last")
        last = (await bus.stream_info(RECORDS, shard=0))["last_sequence"]
        await eventually(lambda: _floor_beyond(bus, last - 1))
    read.clear()
    async with open_fake_worker(url) as worker, open_scheduler(url, "s2"):
        await deploy(bus, target=2)
        await eventually(lambda: {*ids(worker)} == {"inv_first", "inv_last"})
        seen = [event for event in read if isinstance(event, RecordSeen)]
        assert len({event.sequence for event in seen}) < ENDED / 10


async def _floor_beyond(bus, sequence):
    return await floor_of(bus) > sequence


async def test_a_floor_of_another_stream_is_not_believed(bus, nats_server, monkeypatch):
    url = nats_server.url
    async with open_scheduler(url, "s1"):
        await deploy(bus, target=0)
        await spawn(bus, "inv_1")
        await spawn(bus, "inv_2")
        found = await bus.stream_info(RECORDS, shard=0)
    floor = {"floor": found["last_sequence"] + 1, "stream_created": found["created"] + 1}
    await bus.bucket(FLOORS).put("shard-0", FLOORS.value(**floor))
    async with open_fake_worker(url) as worker, open_scheduler(url, "s2"):
        await deploy(bus, target=2)
        await eventually(lambda: {*ids(worker)} == {"inv_1", "inv_2"})


async def test_a_task_that_the_reader_left_out_is_run_all_the_same(bus, nats_server, monkeypatch):
    monkeypatch.setattr(auditing, "AUDIT_SOON_S", 0.2)
    url = nats_server.url
    async with open_scheduler(url, "s1"):
        await deploy(bus, target=0)
        for number in range(4):
            await spawn(bus, f"inv_{number}")
    on_raw = Follower._on_raw
    left_out = []

    async def leaves_out(self, message):
        # The first reader of the records skips one, in a way that no count of its own can show.
        if message.subject.endswith("inv_2") and not left_out:
            left_out.append(message)
            self._expected += 1
            return
        await on_raw(self, message)

    monkeypatch.setattr(Follower, "_on_raw", leaves_out)
    async with open_fake_worker(url) as worker, open_scheduler(url, "s2"):
        await deploy(bus, target=4)
        await eventually(lambda: settled(bus))
        await eventually(lambda: {*ids(worker)} == {f"inv_{n}" for n in range(4)})
    assert left_out
