"""A burst of events while the scheduler is killed in the middle of it: each event once per trigger."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

from tests.e2e.conftest import Running, a_platform
from tests.support.eventually import eventually_sync

EVENTS = 400
BATCH = 100
KILLS_AFTER = (1, 2, 3)
APP = """
from glowplug import on_event

@on_event("com.burst", cpu=0.01, memory=64, concurrent_requests=16, keep_warm_seconds=60)
async def singly(event):
    return event.id

@on_event("com.burst", batch=7, window=0.5, cpu=0.01, memory=64, keep_warm_seconds=60)
def together(events):
    return [event.id for event in events]
"""


def publish(platform: Running, first: int) -> None:
    events = [
        {"specversion": "1.0", "id": str(n), "source": "/burst", "type": "com.burst", "data": n}
        for n in range(first, first + BATCH)
    ]
    answer = platform.http(
        "POST",
        "/events",
        json.dumps(events).encode(),
        content_type="application/cloudevents-batch+json",
    )
    assert answer.status == 202, answer.body


def scheduler_pid(platform: Running) -> int:
    """Of the child of `up` that is the scheduler; 0 while there is none."""
    parent = json.loads((platform.data / "run.json").read_text())["pid"]
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            command = (process / "cmdline").read_bytes()
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if b"glowplug-scheduler" in command and int(fields[1]) == parent:
                return int(process.name)
    return 0


def delivered(platform: Running, name: str) -> list[str]:
    """Every event of every record of a trigger, from the records themselves; with repeats."""
    found: list[str] = []
    cursor = ""
    while True:
        page = platform.http(
            "GET", f"/api/v1/tasks?queue={name}&limit=1000{'&cursor=' + cursor if cursor else ''}"
        ).json()
        for row in page["tasks"]:
            result = platform.http("GET", f"/tasks/{row['task_id']}/status").json()["result"]
            found += result if isinstance(result, list) else [] if result is None else [result]
        cursor = page.get("cursor") or ""
        if not cursor:
            return found


def test_a_scheduler_killed_in_a_burst_loses_and_repeats_nothing(tmp_path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with a_platform(tmp_path / "data") as platform:
        platform.cli("deploy", str(tmp_path / "app.py"))
        for number in range(EVENTS // BATCH):
            publish(platform, number * BATCH)
            if number in KILLS_AFTER:
                before = eventually_sync(lambda: scheduler_pid(platform))
                os.kill(before, signal.SIGKILL)
                eventually_sync(lambda before=before: scheduler_pid(platform) not in (0, before))
        publish(platform, 0)  # again: the same events
        wanted = sorted(str(n) for n in range(EVENTS))
        for name in ("singly", "together"):
            eventually_sync(
                lambda name=name: len(delivered(platform, name)) >= EVENTS, within_s=90, what=name
            )
            assert sorted(delivered(platform, name)) == wanted, name
