"""One owner at a time, and generations that only grow, on a real server."""

from __future__ import annotations

import asyncio
import contextlib

from glowplug_runtime.lease import Lease, hold_lease

from tests.support.eventually import eventually


async def test_only_one_of_two_holders_acquires(bus, clock):
    first, second = (Lease(bus, clock, "shard-0", name) for name in ("a", "b"))
    assert await first.try_acquire()
    assert not await second.try_acquire()
    assert first.held
    assert not second.held


async def test_generation_grows_over_every_change_of_hands(bus, clock):
    first, second = (Lease(bus, clock, "shard-0", name) for name in ("a", "b"))
    await first.try_acquire()
    await first.release()
    await second.try_acquire()
    assert (first.generation, second.generation) == (1, 2)


async def test_a_restarted_holder_of_the_same_name_takes_it_back_at_once(bus, clock):
    before = Lease(bus, clock, "shard-0", "a")
    await before.try_acquire()
    after = Lease(bus, clock, "shard-0", "a")
    assert await after.try_acquire()
    assert after.generation > before.generation
    assert not await before.renew()


async def test_a_holder_that_could_not_renew_stops_believing(bus, clock):
    lease = Lease(bus, clock, "shard-0", "a")
    await lease.try_acquire()
    clock.advance(1.6)
    assert not lease.held


async def test_a_waiting_replica_takes_over_when_the_first_stops_and_when_it_dies(bus, clock):
    held: list[str] = []
    stops = {name: asyncio.Event() for name in "abc"}

    def holding(name):
        @contextlib.asynccontextmanager
        async def on_held(lease):
            held.append(name)
            yield

        return hold_lease(Lease(bus, clock, "shard-0", name), on_held, stops[name])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(holding("a"))
        await eventually(lambda: held == ["a"])
        second = tasks.create_task(holding("b"))
        stops["a"].set()
        await eventually(lambda: held == ["a", "b"])
        tasks.create_task(holding("c"))
        second.cancel()  # released on the way out
        await eventually(lambda: held == ["a", "b", "c"])
        stops["c"].set()
