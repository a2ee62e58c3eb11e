"""An endpoint with a buffer, and one whose start fails until a file is there."""

from __future__ import annotations

import time

from glowplug import Map, QueueDepthAutoscaler, Volume, endpoint, is_remote

READY = Volume("scaled", "/data/scaled")
GATE = "scaled-gate"


@endpoint(
    cpu=0.01,
    memory=64,
    keep_warm_seconds=0,
    autoscaler=QueueDepthAutoscaler(max_containers=4, buffer_containers=2),
)
def waits() -> str:
    gate = Map(GATE)
    while "open" not in gate:
        time.sleep(0.02)
    return "through"


def must_be_there(_context: object = None) -> None:
    if is_remote() and not (READY.path / "ok").exists():
        raise RuntimeError("there is no file named ok yet")


@endpoint(cpu=0.01, memory=64, keep_warm_seconds=0, volumes=[READY], on_start=must_be_there)
def needs_a_file() -> str:
    return "started"
