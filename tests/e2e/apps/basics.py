"""Functions that the end-to-end tests call."""

from __future__ import annotations

import os
import time

import helper_module
from glowplug import QueueDepthAutoscaler, TaskPolicy, endpoint, function, schema, task_queue

LIGHT = {"cpu": 0.01, "memory": 64}


@function(**LIGHT, keep_warm_seconds=5)
def triple(value):
    return helper_module.times(value)


@function(**LIGHT, keep_warm_seconds=5)
def echo(value=None):
    return value


@function(cpu=0.01, keep_warm_seconds=5)
def echo_large(value):
    return value


@function(**LIGHT, keep_warm_seconds=5)
def fails_on_seven(value):
    if value == 7:
        raise ValueError("seven is not allowed")
    return value


@function(
    **LIGHT,
    keep_warm_seconds=30,
    autoscaler=QueueDepthAutoscaler(max_containers=3, tasks_per_container=20),
)
def slow_triple(value):
    time.sleep(0.02)
    return 3 * value


class HouseError(Exception):
    def __init__(self, room, floor):
        super().__init__(room, floor)
        self.room = room


@function(**LIGHT, keep_warm_seconds=5)
def raises_house_error():
    try:
        {}["missing"]
    except KeyError as err:
        raise HouseError("kitchen", 2) from err


@function(**LIGHT, keep_warm_seconds=1)
def brief(value):
    return value + 1


@function(**LIGHT, keep_warm_seconds=30, autoscaler=QueueDepthAutoscaler(max_containers=2))
def slow_where(seconds):
    time.sleep(seconds)
    return os.environ.get("HOSTNAME") or os.uname().nodename


@function(**LIGHT, keep_warm_seconds=5)
def count_to(number):
    yield from range(number)


@function(**LIGHT, keep_warm_seconds=5, timeout=1, retries=0)
def loops_in_c():
    return sum(iter(int, 1))  # never ends, and never returns to the interpreter's loop


@function(**LIGHT, keep_warm_seconds=5)
def dies():
    os.kill(os.getpid(), 9)


@function(**LIGHT, keep_warm_seconds=5)
def sleeps(seconds):
    time.sleep(seconds)
    return "slept"


@function(**LIGHT, keep_warm_seconds=5)
def talks(name):
    print(f"hello {name}")
    print(f"bye {name}")
    return name


@task_queue(**LIGHT, keep_warm_seconds=5)
def add(a, b):
    return a + b


@task_queue(
    **LIGHT, keep_warm_seconds=5, task_policy=TaskPolicy(max_retries=2, retry_delay_seconds=0.1)
)
def succeeds_at_the_third(context):
    if context.attempt < 3:
        raise RuntimeError(f"attempt {context.attempt}")
    return context.attempt


@endpoint(**LIGHT, keep_warm_seconds=5, inputs=None)
def greet(name: str, times: int = 1) -> dict:
    return {"greeting": f"hello {name}" * times}


@endpoint(**LIGHT, keep_warm_seconds=5)
def ticks(count: int):
    for number in range(count):
        yield {"tick": number}


@endpoint(**LIGHT, keep_warm_seconds=5, max_pending_tasks=2)
def narrow(seconds: float = 2.0) -> str:
    time.sleep(seconds)
    return "through"


@endpoint(**LIGHT, keep_warm_seconds=5)
def broken() -> str:
    raise LookupError("nothing here")


@endpoint(
    **LIGHT,
    keep_warm_seconds=5,
    inputs=schema.Schema({"n": schema.Integer()}) if hasattr(schema, "Schema") else None,
)
def checked(n: int) -> int:
    return n
