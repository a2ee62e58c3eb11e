"""The functions that the campaign runs in containers. They know nothing of the campaign but a port.

What each run did is told to the recorder before and after; what it returns names the run, so that a
checker can say which run a result came from.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time

_said = threading.local()


def _effect(context, effect, run, **more):
    """Tell the recorder; return how often this was told of this invocation before."""
    line = {
        "id": context.task_id,
        "effect": effect,
        "run": run,
        "attempt": context.attempt,
        "pid": os.getpid(),
        "container": context.container_id,
        **more,
    }
    file = getattr(_said, "file", None)
    if file is None:
        host, _, port = os.environ["CAMPAIGN_RECORDER"].partition(":")
        file = _said.file = socket.create_connection((host, int(port))).makefile("rwb")
    file.write(json.dumps(line).encode() + b"\n")
    file.flush()
    return int(file.readline())


def _run(context):
    run = os.urandom(6).hex()
    return run, _effect(context, "start", run)


def short(key, context):
    run, _ = _run(context)
    _effect(context, "end", run)
    return [key, run]


def flaky(key, fails, context):
    """Fail the first `fails` runs that come to their end."""
    run, _ = _run(context)
    if _effect(context, "fail", run) < fails:
        raise RuntimeError(f"fails {fails} times")
    _effect(context, "end", run)
    return [key, run]


def slow(key, seconds, context):
    run, _ = _run(context)
    time.sleep(seconds)
    _effect(context, "end", run)
    return [key, run]


def crash(key, times, context):
    """Take the process down in the first `times` runs."""
    run, before = _run(context)
    if before < times:
        os._exit(3)
    _effect(context, "end", run)
    return [key, run]


def late(key, context):
    """Never ends by itself: a time-out is its outcome."""
    run, _ = _run(context)
    while True:
        time.sleep(1)


def greedy(key, seconds, context):
    """Holds a (simulated) GPU."""
    return slow(key, seconds, context)


def evented(event, context):
    """Handle one event."""
    run = os.urandom(6).hex()
    _effect(context, "event", run, event=event.id)


def batched(events, context):
    """Handle some events at once."""
    run = os.urandom(6).hex()
    for event in events:
        _effect(context, "batched", run, event=event.id)


def tick(context):
    """A due time came."""
    run = os.urandom(6).hex()
    _effect(context, "tick", run, due=context.scheduled_for.timestamp())
