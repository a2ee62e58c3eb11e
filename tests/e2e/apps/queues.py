"""Task queues that the tests of durable work put tasks into."""

import time

from glowplug import QueueDepthAutoscaler, TaskPolicy, task_queue

LIGHT = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 5}


class ShopError(Exception):
    """The base of this app's errors."""


class SoldOutError(ShopError):
    """One of them."""


@task_queue(**LIGHT)
def number(value=0):
    return value


@task_queue(**LIGHT)
def held(value=0):
    """Runs until it is cancelled for 0; otherwise ends at once."""
    while value == 0:
        time.sleep(0.02)
    return value


@task_queue(**LIGHT, retry_for=[ShopError], no_retry_for=[KeyError], retries=2)
def fails_as(name, context):
    kinds = {"sold out": SoldOutError, "key": KeyError, "value": ValueError}
    raise kinds[name](f"attempt {context.attempt}")


@task_queue(**LIGHT, timeout=1, retries=1)
def blocks_in_c():
    return sum(iter(int, 1))


@task_queue(**LIGHT)
def cleans_up(context):
    context.progress(0.25, "began")
    try:
        while True:
            time.sleep(0.02)
    finally:
        print("cleaned up", context.task_id)


@task_queue(**LIGHT)
def never_listens(context):
    context.progress(0.5, "deaf")
    while True:
        try:
            while True:
                time.sleep(0.02)
        except BaseException:  # noqa: BLE001 - that is its fault
            continue


@task_queue(**LIGHT)
def tells(context):
    for step in range(1000):
        context.progress(step / 1000)
    context.progress(0.75, "three quarters")
    return "told"


@task_queue(
    **LIGHT,
    task_policy=TaskPolicy(max_retries=3, retry_delay_seconds=0.2, backoff=2, jitter=True),
    autoscaler=QueueDepthAutoscaler(max_containers=4),
)
def third_time(context):
    if context.attempt < 3:
        raise ShopError(f"attempt {context.attempt}")
    return context.attempt


@task_queue(**LIGHT, autoscaler=QueueDepthAutoscaler(max_containers=3))
def beside(value=0):
    time.sleep(0.05)
    return value


@task_queue(**LIGHT, rate_limit="2/s", autoscaler=QueueDepthAutoscaler(max_containers=2))
def slowly(value=0):
    return value


@task_queue(**LIGHT, autoscaler=QueueDepthAutoscaler(max_containers=3))
def plus(a, b=1):
    return a + b


@task_queue(**LIGHT)
def total(values, context):
    return sum(values)


@task_queue(**LIGHT)
def breaks(*_args):
    raise ShopError("broken")


@task_queue(**LIGHT)
def told_of(failure):
    return [failure["type"], failure["message"], failure["state"]]
