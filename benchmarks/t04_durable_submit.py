"""T4: durable submissions, on disk before the answer, against one synced JetStream publish per message.

Both write the same records to the same kind of stream, 128 in flight. Ours, in three places: where the gateway
writes (gathered into atomic batches as they pile up; with 128 in flight, and with 1,024), and all the way from
Python through HTTP: `put_many`, and `put` one by one. Two bounds are measured beside them: batches of 128 and of
500 records that were encoded before, sent as they are, one after the other: more the broker does not store.
The control is the peer with syncing off: as it is much faster, it is the sync that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
import uvloop
from glowplug_contracts.ids import DEFAULT_WORKSPACE, DeploymentId, InvocationId, make_id
from glowplug_contracts.messages.invocation import Format, Input, Payload
from glowplug_contracts.messages.record import InvocationRecord, record_headers
from glowplug_contracts.subjects import RECORD
from glowplug_gateway.submitting import Submitter
from glowplug_local.broker import GO_LIMITS
from glowplug_runtime.bus import Write
from glowplug_runtime.bus_nats import NatsBus, _raw, open_bus
from glowplug_runtime.topology import ensure_topology
from glowplug_runtime.wire import _publish_lines

from benchmarks.harness import (
    Side,
    a_directory,
    a_platform,
    alternate,
    an_app,
    arguments,
    show,
    verdict,
)
from tests.support.nats import open_nats_server

IN_FLIGHT = 128
MANY_IN_FLIGHT = 1_024
BATCHES = (128, 500)
TASKS = 3_000
MANY = 10_000
WANTED = 10.0
PEER = "JetStream publish, synced, each alone"
CONTROL = "control: the same, not synced"
GATEWAY = "gateway's writer, 128 in flight"
GATEWAY_MANY = "gateway's writer, 1,024 in flight"
BOUND = "bound: batches of {} as they are"
PUT_MANY = "put_many from Python, over HTTP"
PUT = "put from Python, 128 in flight"
APP = """
from glowplug import task_queue

@task_queue
def later(value):
    return value
"""

Store = Callable[[NatsBus, Write[InvocationRecord]], Awaitable[None]]

numbers = itertools.count(1)


def main() -> int:
    options = arguments(__doc__)
    os.environ["GOGC"] = GO_LIMITS["GOGC"]  # the brokers of both sides run as `up` runs its own
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    an_app(APP)
    with contextlib.ExitStack() as stack:
        synced = stack.enter_context(open_nats_server(a_directory("synced")))
        unsynced = stack.enter_context(
            open_nats_server(a_directory("unsynced"), sync="2m")  # the server's own default
        )
        stack.enter_context(a_platform())
        sides: dict[str, Callable[[], Sequence[float]]] = {
            PEER: lambda: each_alone(synced.url),
            CONTROL: lambda: each_alone(unsynced.url),
            GATEWAY: lambda: gathered(synced.url, IN_FLIGHT),
            GATEWAY_MANY: lambda: gathered(synced.url, MANY_IN_FLIGHT),
            **{
                BOUND.format(size): functools.partial(as_they_are, synced.url, size)
                for size in BATCHES
            },
            PUT_MANY: put_many,
            PUT: put,
        }
        for measure in sides.values():
            measure()
        found = alternate(sides, 3 if options.quick else options.rounds)
    show(found, PEER)
    rates = {name: round(1 / side.p50) for name, side in found.items()}
    print({name: f"{rate:,}/s" for name, rate in rates.items()})
    times = {name: round(against(found[PEER], side), 2) for name, side in found.items()}
    if times[CONTROL] < 2:
        print("the control is hardly faster: this disk does not sync, and nothing was measured")
    held = max(times[GATEWAY], times[PUT_MANY]) >= WANTED if times[CONTROL] >= 2 else None
    return verdict(
        f"durable submission is at least {WANTED:g}x one synced publish per message",
        held,
        {"per_s": rates, "times": times},
    )


def against(peer: Side, side: Side) -> float:
    """Return how many times as fast as the peer it was: the median of the rounds."""
    return statistics.median(
        theirs / ours for theirs, ours in zip(peer.samples, side.samples, strict=True)
    )


def a_write() -> Write[InvocationRecord]:
    number = next(numbers)
    invocation_id = InvocationId(make_id("invocation", os.getpid(), number.to_bytes(10)))
    data = b"x" * 200
    record = InvocationRecord(
        invocation_id=invocation_id,
        workspace=DEFAULT_WORKSPACE,
        deployment_id=DeploymentId("dep_00000000000000000000000001"),
        input=Input(args=Payload(format=Format.PICKLE, data=data, size=len(data))),
        accepted_at=1.0,
    )
    to = RECORD.at(shard=0, workspace=DEFAULT_WORKSPACE, invocation_id=invocation_id)
    return Write(to=to, message=record, expect_last=0, headers=record_headers(record))


def each_alone(url: str) -> list[float]:
    async def store(bus: NatsBus, write: Write[InvocationRecord]) -> None:
        await bus.append(write.to, write.message, expect_last=0, headers=write.headers)

    return uvloop.run(in_flight(url, IN_FLIGHT, lambda _: store))


def gathered(url: str, at_once: int) -> list[float]:
    def submitting(bus: NatsBus) -> Store:
        submitter = Submitter(Process(bus))  # type: ignore[arg-type]

        async def store(_: NatsBus, write: Write[InvocationRecord]) -> None:
            (stored,) = await submitter.submit([write])
            assert isinstance(stored, int), stored

        return store

    return uvloop.run(in_flight(url, at_once, submitting))


class Process:
    """As much of the gateway's process as its writer needs."""

    shards = 1

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any, _name: str) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def in_flight(url: str, at_once: int, make: Callable[[NatsBus], Store]) -> list[float]:
    """Return the seconds per task of TASKS tasks, `at_once` of which always wait."""
    async with open_bus(url, instance="bench") as bus:
        await ensure_topology(bus, shards=1)
        store = make(bus)
        writes = iter([a_write() for _ in range(TASKS)])

        async def submit_again_and_again() -> None:
            for write in writes:
                await store(bus, write)

        started = time.perf_counter()
        await asyncio.gather(*(submit_again_and_again() for _ in range(at_once)))
        return [(time.perf_counter() - started) / TASKS]


def as_they_are(url: str, size: int) -> list[float]:
    """Return the seconds per record of batches that cost this process hardly anything."""
    return uvloop.run(_as_they_are(url, size))


async def _as_they_are(url: str, size: int) -> list[float]:
    batches = max(1, TASKS // size)
    async with open_bus(url, instance="bench") as bus:
        await ensure_topology(bus, shards=1)
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def on_answer(message: Any) -> None:
            answers.put_nowait(message.data)

        inbox = bus.client.new_inbox()
        await bus.client.subscribe(inbox, cb=on_answer)
        sent = [a_batch(size, inbox) for _ in range(batches)]
        started = time.perf_counter()
        for batch in sent:
            bus.client._write(batch)  # type: ignore[union-attr]
            ack = await answers.get()
            assert b'"count":%d' % size in ack, ack
        return [(time.perf_counter() - started) / (size * batches)]


def a_batch(size: int, inbox: str) -> bytes:
    batch_id, lines = os.urandom(12).hex(), []
    for number in range(1, size + 1):
        raw = _raw(a_write())
        headers = raw.headers | {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
        if number == size:
            headers["Nats-Batch-Commit"] = "1"
        reply = inbox if number == size else ""
        lines.append(_publish_lines(raw.subject, reply, raw.data, headers))
    return b"".join(lines)


def put_many() -> list[float]:
    from bench_app import later  # type: ignore[import-not-found]

    # Nothing of it is due while we measure: what is measured is submitting.
    waiting = later.options(delay=3_600)
    started = time.perf_counter()
    assert len(waiting.put_many(range(MANY))) == MANY
    return [(time.perf_counter() - started) / MANY]


def put() -> list[float]:
    from bench_app import later

    waiting = later.options(delay=3_600)

    async def all_of_them() -> None:
        left = iter(range(TASKS))

        async def again_and_again() -> None:
            for value in left:
                await waiting.put.aio(value)

        await asyncio.gather(*(again_and_again() for _ in range(IN_FLIGHT)))

    started = time.perf_counter()
    asyncio.run(all_of_them())
    return [(time.perf_counter() - started) / TASKS]


if __name__ == "__main__":
    sys.exit(main())
