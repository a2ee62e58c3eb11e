"""Functions that reach the platform from inside their containers."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from glowplug import Map, Queue, function, task_queue

LIGHT = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 5}


@function(**LIGHT)
def double(value):
    return 2 * value


@function(**LIGHT)
def refuses(value):
    raise LookupError(f"no {value}")


@function(**LIGHT)
def numbers(count, size):
    for number in range(count):
        yield number, b"x" * size


@task_queue(**LIGHT)
def later(value):
    return value + 1


@function(**LIGHT)
def asks_another(value):
    return double.remote(value) + 1


@function(**LIGHT)
async def asks_others_at_once(values):
    return await asyncio.gather(*(double.remote.aio(value) for value in values))


@function(**LIGHT)
def asks_from_threads(values):
    found = {}

    def ask(value):
        found[value] = double.remote(value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@function(**LIGHT)
def picky(value):
    if value == 3:
        raise LookupError(f"no {value}")
    return value * value


@function(**LIGHT)
def maps_over_many(count):
    squares = list(double.map(range(count)))
    sums = sorted(added.starmap([(1, 2), (3, 4)], order_outputs=False))
    caught = list(picky.map([2, 3, 4], return_exceptions=True))
    double.for_each(range(3))
    picky.for_each([3], ignore_exceptions=True)
    try:
        picky.for_each(iter([1, 3]))
    except LookupError as error:
        return squares, sums, [str(one) for one in caught], str(error)
    return None


@function(**LIGHT)
def added(left, right):
    return left + right


@function(**LIGHT)
async def maps_asynchronously(values):
    async def later():
        for value in values:
            yield value

    found = [value async for value in double.map.aio(later())]
    async for first in double.map.aio(range(10_000_000)):  # endless, all but: left early
        return found, first
    return None


@function(**LIGHT)
def hears_an_exception(value):
    try:
        refuses.remote(value)
    except LookupError as error:
        return str(error)
    return ""


@function(**LIGHT)
def sums_a_stream(count, size):
    return sum(number + len(data) for number, data in numbers.remote(count, size))


@function(**LIGHT)
def sends_much(size):
    return len(echo.remote(os.urandom(size)))


@function(**LIGHT)
def echo(value):
    return value


@function(**LIGHT)
def puts_work(value):
    task = later.put(value)
    call = double.spawn(value)
    return task.task_id, task.result(timeout=30), call.get(timeout=30), task.status()


@function(**LIGHT)
def what_is_seen():
    descriptors = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    return dict(os.environ), descriptors


VALUES = [0, False, "", [], None, 1.5, "text", "ü", {"a": (1, 2)}, b"\x00", {1, 2}, 2**80]


@function(**LIGHT)
def keeps_in_a_map(name):
    shared = Map(name)
    for number, value in enumerate(VALUES):
        shared[f"k{number}"] = value
    read = [shared[f"k{number}"] for number in range(len(VALUES))]
    present = [f"k{number}" in shared for number in range(len(VALUES))]
    return read, all(present), len(shared), shared.get("none", "default")


@function(**LIGHT)
def counts_up(name, times):
    return [Map(name).incr("n") for _ in range(times)]


@function(**LIGHT)
async def hands_on(name, values):
    queue = Queue(name)
    await asyncio.gather(*(queue.put.aio(value) for value in values))
    return await queue.length.aio()


@function(**LIGHT)
def waits_for_one(name):
    return Queue(name).get(timeout=60)
