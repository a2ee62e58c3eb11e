"""T4: durable submissions, on disk before the answer, against one synced JetStream publish per message.

Both write the same record to the same kind of stream, 128 in flight. Ours, in three places: where the gateway
writes (gathered into atomic batches as they pile up), and all the way from Python through HTTP: `put_many`,
and `put` one by one. The control is the peer with syncing off: as it is much faster, it is the sync that
is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import uvloop
from glowplug_contracts.ids import DEFAULT_WORKSPACE, DeploymentId, InvocationId, make_id
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InvocationRecord,
    Payload,
    record_headers,
)
from glowplug_contracts.subjects import RECORD
from glowplug_gateway.submitting import Submitter
from glowplug_runtime.bus import Write
from glowplug_runtime.bus_nats import NatsBus, open_bus
from glowplug_runtime.topology import ensure_topology

from benchmarks.harness import a_directory, a_platform, alternate, an_app, arguments, show, verdict
from tests.support.nats import open_nats_server

IN_FLIGHT = 128
TASKS = 3_000
MANY = 10_000
WANTED = 10.0
PEER = "JetStream publish, synced, each alone"
CONTROL = "control: the same, not synced"
GATEWAY = "gateway's writer, 128 in flight"
PUT_MANY = "put_many from Python, over HTTP"
PUT = "put from Python, 128 in flight"
APP = """
from glowplug import task_queue

@task_queue
def later(value):
    return value
"""

numbers = itertools.count(1)


def main() -> int:
    options = arguments(__doc__)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    an_app(APP)
    with contextlib.ExitStack() as stack:
        synced = stack.enter_context(open_nats_server(a_directory("synced")))
        unsynced = stack.enter_context(
            open_nats_server(a_directory("unsynced"), sync="2m")  # the server's own default
        )
        stack.enter_context(a_platform())
        sides = {
            PEER: lambda: each_alone(synced.url),
            CONTROL: lambda: each_alone(unsynced.url),
            GATEWAY: lambda: gathered(synced.url),
            PUT_MANY: put_many,
            PUT: put,
        }
        for measure in sides.values():
            measure()
        found = alternate(sides, 3 if options.quick else options.rounds)
    show(found, PEER)
    rates = {name: round(1 / side.p50) for name, side in found.items()}
    print({name: f"{rate:,}/s" for name, rate in rates.items()})
    times = {
        name: round(rates[name] / rates[PEER], 2) for name in (CONTROL, GATEWAY, PUT_MANY, PUT)
    }
    if times[CONTROL] < 2:
        print("the control is hardly faster: this disk does not sync, and nothing was measured")
    held = max(times[GATEWAY], times[PUT_MANY]) >= WANTED if times[CONTROL] >= 2 else None
    return verdict(
        f"durable submission is at least {WANTED:g}x one synced publish per message",
        held,
        {"per_s": rates, "times": times},
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
    async def store(bus: NatsBus) -> Callable[[], Awaitable[Any]]:
        async def one() -> None:
            write = a_write()
            await bus.append(write.to, write.message, expect_last=0, headers=write.headers)

        return one

    return uvloop.run(in_flight(url, store))


def gathered(url: str) -> list[float]:
    async def store(bus: NatsBus) -> Callable[[], Awaitable[Any]]:
        submitter = Submitter(Process(bus))  # type: ignore[arg-type]

        async def one() -> None:
            (stored,) = await submitter.submit([a_write()])
            assert isinstance(stored, int), stored

        return one

    return uvloop.run(in_flight(url, store))


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


async def in_flight(
    url: str, make: Callable[[NatsBus], Awaitable[Callable[[], Awaitable[Any]]]]
) -> list[float]:
    """Return the seconds per task of TASKS tasks, IN_FLIGHT of which always wait."""
    async with open_bus(url, instance="bench") as bus:
        await ensure_topology(bus, shards=1)
        one = await make(bus)
        left = iter(range(TASKS))

        async def submit_again_and_again() -> None:
            for _ in left:
                await one()

        started = time.perf_counter()
        await asyncio.gather(*(submit_again_and_again() for _ in range(IN_FLIGHT)))
        return [(time.perf_counter() - started) / TASKS]


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
