"""Functions that run when they are due."""

from __future__ import annotations

from glowplug import schedule


@schedule("every 1s", cpu=0.01, memory=64, keep_warm_seconds=5)
def heartbeat(context):
    return context.scheduled_for


@schedule("0 3 * * *", timezone="Europe/Berlin", catch_up="one", cpu=0.01, memory=64)
def nightly():
    return {"cleaned": 3}
