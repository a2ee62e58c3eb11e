"""Both clients under the bus keep the port's promises, seen on a real server."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from glowplug_contracts.errors import ConflictError, NotFoundError, UnavailableError
from glowplug_contracts.messages.dispatch import CallsKnown, CallsProbed, ShardOwned
from glowplug_contracts.messages.invocation import Format, Input, InvocationRequested, Payload
from glowplug_contracts.messages.record import InvocationRecord, record_headers
from glowplug_contracts.messages.schedule import TimerSet
from glowplug_contracts.messages.state import QueueItem
from glowplug_contracts.messages.worker import LeaseHeld
from glowplug_contracts.streams import GENERATIONS, LEASES, RECORDS
from glowplug_contracts.subjects import CALL, DUE, PROBE, QUEUE_ITEM, RECORD, SHARD_OWNED, TIMER
from glowplug_runtime.appending import BATCH_MESSAGES_MAX, BATCH_MESSAGES_MIN
from glowplug_runtime.bus import Write

from tests.support.eventually import eventually

RECORDS_0 = msgspec.structs.replace(RECORDS, name=RECORDS.name.format(shard=0))


@pytest.fixture(params=[False, True], ids=["wire", "library"])
def with_library(request):
    return request.param


def a_request(number):
    return InvocationRequested(
        invocation_id=f"inv_{number}",
        workspace="default",
        deployment_id="dep_1",
        inputs=(Input(args=Payload(format=Format.JSON, data=b"{}")),),
        reply_to="gw",
    )


def a_record(number, **changes):
    return InvocationRecord(
        invocation_id=f"inv_{number}",
        workspace="default",
        deployment_id="dep_1",
        input=Input(args=Payload(format=Format.JSON, data=b"{}")),
        **changes,
    )


def at(number):
    return RECORD.at(shard=0, workspace="default", invocation_id=f"inv_{number}")


def call_at(number):
    return CALL.at(shard=0, workspace="default", invocation_id=f"inv_{number}")


async def test_hears_what_is_sent(bus):
    heard = []

    async def on_owned(delivery):
        heard.append((delivery.message, delivery.fields))

    await bus.listen(SHARD_OWNED.pattern(), on_owned)
    message = ShardOwned(shard=3, generation=1, instance="s1")
    await bus.send(SHARD_OWNED.at(shard=3), message)
    await eventually(lambda: heard)
    assert heard == [(message, {"shard": "3"})]


async def test_answers_a_request_and_carries_typed_errors_back(bus):
    async def on_probe(delivery):
        if not delivery.message.invocation_ids:
            raise NotFoundError("invocation.not_found", "none named", details={"n": 0})
        await delivery.answer(CallsKnown(unknown=("inv_1",), settled=True, generation=2))

    await bus.listen(PROBE.pattern(), on_probe)
    ask = PROBE.at(shard=0)
    known = await bus.request(ask, CallsProbed(invocation_ids=("inv_1",)), CallsKnown, timeout_s=5)
    assert known.unknown == ("inv_1",)
    with pytest.raises(NotFoundError, match="none named") as caught:
        await bus.request(ask, CallsProbed(invocation_ids=()), CallsKnown, timeout_s=5)
    assert caught.value.details == {"n": 0}


async def test_says_at_once_when_nobody_listens(bus):
    with pytest.raises(UnavailableError):
        await bus.request(
            PROBE.at(shard=0), CallsProbed(invocation_ids=()), CallsKnown, timeout_s=60
        )


async def test_only_the_first_of_two_writers_changes_a_record(bus):
    record = a_record(1)
    first = await bus.append(at(1), record, expect_last=0, headers=record_headers(record))
    with pytest.raises(ConflictError):
        await bus.append(at(1), record, expect_last=0)
    await bus.append(at(1), a_record(1, attempt=1), expect_last=first)
    with pytest.raises(ConflictError):
        await bus.append(at(1), a_record(1, attempt=1), expect_last=first)
    assert (await bus.last(at(1))).message.attempt == 1


def writes_of(numbers):
    return [
        Write(to=at(n), message=a_record(n), expect_last=0, headers=record_headers(a_record(n)))
        for n in numbers
    ]


@pytest.mark.parametrize("many", [1, BATCH_MESSAGES_MIN, BATCH_MESSAGES_MAX + 30])
async def test_stores_many_at_once_and_tells_each_ones_sequence(bus, many):
    sequences = await bus.append_many(writes_of(range(many)))
    for number in (0, many // 2, many - 1):
        found = await bus.last(at(number))
        assert found.message == a_record(number)
        assert found.sequence == sequences[number]
        assert found.headers["Glowplug-State"] == "accepted"
    assert len(set(sequences)) == many


async def test_one_that_comes_second_fails_none_of_its_neighbours(bus):
    taken = [await bus.append(at(n), a_record(n, attempt=7), expect_last=0) for n in (3, 70)]
    stored = await bus.append_many(writes_of(range(100)))
    refused = [n for n, one in enumerate(stored) if isinstance(one, ConflictError)]
    assert refused == [3, 70]
    for number in range(100):
        found = await bus.last(at(number))
        if number in refused:
            assert found.sequence in taken
        else:
            assert (found.message, found.sequence) == (a_record(number), stored[number])


async def test_two_with_one_subject_in_one_batch_store_the_first(bus):
    stored = await bus.append_many(writes_of([*range(50), 7]))
    assert isinstance(stored[50], ConflictError)
    assert (await bus.last(at(7))).sequence == stored[7]


async def test_many_are_each_stored_once_though_the_broker_is_killed_meanwhile(bus, nats_server):
    await bus.append_many(writes_of(range(1000, 1050)))
    writing = asyncio.ensure_future(bus.append_many(writes_of(range(400)), timeout_s=30))
    await asyncio.sleep(0)
    nats_server.kill()
    nats_server.start()
    stored = await writing
    for number in range(400):
        assert (await bus.last(at(number))).sequence == stored[number]
    assert (await bus.stream_info(RECORDS_0))["messages"] == 450


async def test_a_removed_message_is_gone_and_followers_are_told(bus):
    seen = []

    async def on_record(delivery):
        seen.append((delivery.fields["invocation_id"], delivery.removed))

    await bus.follow(RECORD.pattern(shard=0), on_record, headers_only=True)
    first = await bus.append(at(1), a_record(1), expect_last=0)
    with pytest.raises(ConflictError):
        await bus.remove(at(1), expect_last=first + 1)
    await bus.remove(at(1), expect_last=first)
    assert await bus.last(at(1)) is None
    assert await bus.all(at(1)) == []
    await eventually(lambda: seen == [("inv_1", False), ("inv_1", True)])


async def test_follows_the_last_record_of_each_subject_without_payloads(bus):
    for number in (1, 2, 1):
        record = a_record(number)
        await bus.append(at(number), record, headers=record_headers(record))
    seen = []

    async def on_record(delivery):
        seen.append((delivery.fields["invocation_id"], delivery.sequence, delivery.message))

    following = await bus.follow(
        RECORD.pattern(shard=0), on_record, start="last_per_subject", headers_only=True
    )
    await following.caught_up()
    assert seen == [("inv_2", 2, None), ("inv_1", 3, None)]
    await bus.append(at(3), a_record(3))
    await eventually(lambda: len(seen) == 3)


async def test_work_is_gone_when_acknowledged_and_comes_again_to_the_next_owner(bus):
    for number in range(3):
        await bus.append(call_at(number), a_request(number))
    first = []

    async def take_first(delivery):
        first.append(delivery)

    old = await bus.take_work(CALL.pattern(shard=0), take_first, generation=1)
    await eventually(lambda: len(first) == 3)
    await first[0].ack()
    await bus.flush()
    await old.close()
    second = []

    async def take_second(delivery):
        second.append(delivery.message.invocation_id)

    await bus.take_work(CALL.pattern(shard=0), take_second, generation=2)
    await eventually(lambda: second == ["inv_1", "inv_2"])
    await first[1].ack()  # the old owner's late ack must hit nothing
    await bus.flush()
    assert (await bus.read(CALL, 2, shard=0)).message.invocation_id == "inv_1"


async def test_reads_one_stored_message_by_sequence_and_none_where_there_is_none(bus):
    sequence = await bus.append(call_at(7), a_request(7))
    assert (await bus.read(CALL, sequence, shard=0)).message == a_request(7)
    assert await bus.read(CALL, sequence + 1, shard=0) is None
    assert await bus.last(call_at(8)) is None


async def test_returns_a_subjects_whole_chain_in_order(bus):
    for number in (1, 2, 1, 1):
        await bus.append(call_at(number), a_request(number))
    assert [d.sequence for d in await bus.all(call_at(1))] == [1, 3, 4]


async def test_a_bucket_creates_once_updates_by_revision_and_forgets_deleted_keys(bus):
    held = LeaseHeld(holder="a", generation=1)
    bucket = bus.bucket(GENERATIONS)
    revision = await bucket.create("shard-0", held)
    with pytest.raises(ConflictError):
        await bucket.create("shard-0", held)
    newer = await bucket.update("shard-0", LeaseHeld(holder="b", generation=2), revision)
    with pytest.raises(ConflictError):
        await bucket.update("shard-0", held, revision)
    assert [e.key for e in await bucket.entries()] == ["shard-0"]
    await bucket.delete("shard-0", newer)
    assert await bucket.get("shard-0") is None
    assert await bucket.entries() == []
    await bucket.create("shard-0", held)


async def test_watching_tells_what_is_and_what_changes(bus):
    bucket = bus.bucket(GENERATIONS)
    await bucket.put("a.x", LeaseHeld(holder="a", generation=1))
    await bucket.put("b.x", LeaseHeld(holder="b", generation=1))
    seen = []

    async def on_entry(entry):
        seen.append((entry.key, entry.value.generation if entry.value else None))

    await bucket.watch(on_entry, "a")
    assert seen == [("a.x", 1)]
    await bucket.put("a.x", LeaseHeld(holder="a", generation=2))
    await eventually(
        lambda: len(seen) == 2
    )  # a bucket keeps the last: what it replaces may go unseen
    await bucket.delete("a.x")
    await eventually(lambda: seen == [("a.x", 1), ("a.x", 2), ("a.x", None)])


async def test_a_leases_key_expires_by_itself(bus):
    await bus.bucket(LEASES).create("k", LeaseHeld(holder="a", generation=1))

    async def is_gone():
        return await bus.bucket(LEASES).get("k") is None

    await eventually(is_gone)


async def test_a_timer_lands_when_its_time_has_come_and_the_last_one_set_counts(bus):
    landed = []

    async def on_due(delivery):
        landed.append((delivery.fields["schedule"], delivery.message.due))

    following = await bus.follow(DUE.pattern(shard=0), on_due)
    now = time.time()
    for name, due in (("past", now - 60), ("moved", now + 3600), ("moved", now + 0.2)):
        timer = TimerSet(name=name, workspace="default", due=due)
        to, lands = (kind.at(shard=0, workspace="default", schedule=name) for kind in (TIMER, DUE))
        await bus.set_timer(to, timer, due_unix=due, lands=lands, kept_s=60)
    await eventually(lambda: len(landed) >= 2)
    assert landed == [("past", now - 60), ("moved", now + 0.2)]
    assert await bus.last(TIMER.at(shard=0, workspace="default", schedule="moved")) is None
    await following.close()


async def test_goes_on_after_the_broker_was_killed_and_started(bus, nats_server):
    seen = []

    async def on_record(delivery):
        seen.append(delivery.fields["invocation_id"])

    await bus.append(at(1), a_record(1))
    await bus.follow(RECORD.pattern(shard=0), on_record)
    await eventually(lambda: seen == ["inv_1"])
    nats_server.kill()
    writing = asyncio.ensure_future(bus.append(at(2), a_record(2), expect_last=0, timeout_s=30))
    nats_server.start()
    await writing
    await eventually(lambda: seen == ["inv_1", "inv_2"])


async def test_the_oldest_message_is_taken_by_one_only(bus):
    at = QUEUE_ITEM.at(workspace="default", queue="q", partition="p-")
    for number in range(3):
        await bus.append(at, QueueItem(format=Format.JSON, data=str(number).encode()))
    assert await bus.counts(QUEUE_ITEM.pattern(workspace="default")) == {at.subject: 3}
    oldest = await bus.first(at)
    assert oldest.message.data == b"0"
    taken = await asyncio.gather(*(bus.take(at, oldest.sequence) for _ in range(5)))
    assert taken.count(True) == 1
    assert not await bus.take(at, 10_000)
    assert (await bus.first(at)).message.data == b"1"
    assert await bus.first(QUEUE_ITEM.at(workspace="default", queue="r", partition="p-")) is None


async def test_what_comes_after_a_lost_end_is_heard_though_its_numbers_were_given_before(bus):
    """A broker that is killed forgets the end of what it need not sync, and counts on from there."""
    seen = []

    async def on_record(delivery):
        seen.append(delivery.fields["invocation_id"])

    for number in (1, 2, 3):
        await bus.append(at(number), a_record(number))
    await bus.follow(RECORD.pattern(shard=0), on_record)
    await eventually(lambda: len(seen) == 3)
    config = (await bus.api("STREAM.INFO.RECORDS_0", {}))["config"]
    await bus.api("STREAM.DELETE.RECORDS_0", {})
    await bus.api("STREAM.CREATE.RECORDS_0", config)
    for number in (4, 5, 6, 7):  # as many numbers as before, and one more
        await bus.append(at(number), a_record(number))
    await eventually(lambda: seen[3:] == ["inv_4", "inv_5", "inv_6", "inv_7"])


async def test_what_comes_after_a_lost_end_is_heard_though_there_is_less_than_before(bus):
    seen = []

    async def on_record(delivery):
        seen.append(delivery.fields["invocation_id"])

    for number in (1, 2, 3):
        await bus.append(at(number), a_record(number))
    await bus.follow(RECORD.pattern(shard=0), on_record)
    await eventually(lambda: len(seen) == 3)
    config = (await bus.api("STREAM.INFO.RECORDS_0", {}))["config"]
    await bus.api("STREAM.DELETE.RECORDS_0", {})
    await bus.api("STREAM.CREATE.RECORDS_0", config)
    await bus.append(at(4), a_record(4))
    await eventually(lambda: seen[3:] == ["inv_4"])
