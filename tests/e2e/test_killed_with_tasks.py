"""A thousand tasks are queued, every process of the platform is killed at once, and it is started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import APPS, Running
from tests.e2e.test_lifecycle import processes_of, start_up
from tests.support.eventually import eventually_sync

TASKS = 1_000
# One task holds the only slot; behind it come fifty groups of twenty, each with another priority.
PUTTING = """
import json, random, queues
from tests.support.eventually import eventually_sync
holder = queues.held.put(0)
eventually_sync(lambda: holder.status() == "RUNNING", within_s=60)
numbers, wanted = random.Random(7), []
for group in range(50):
    priority = numbers.randint(-10, 10)
    values = range(1 + group * 20, 21 + group * 20)
    put = queues.held.options(priority=priority).put_many(values)
    wanted += [(task.task_id, priority) for task in put]
print(json.dumps({"holder": holder.task_id, "wanted": wanted}))
"""


def listed(running: Running, state: str) -> list[dict]:
    path = f"/api/v1/tasks?kind=durable&limit={TASKS}&state={state}"
    return running.http("GET", path).json()["tasks"]


def held_again(running: Running, task_id: str) -> bool:
    task = running.http("GET", f"/api/v1/tasks/{task_id}").json()
    return task["state"] == "running" and task["attempt"] == 2


def test_a_thousand_queued_tasks_outlive_everything_and_run_in_order(tmp_path):
    data = tmp_path / "data"
    process, ready = start_up(data, "--port", "0")
    token = Path(ready["token_file"]).read_text().strip()
    running = Running(ready["url"], token, data)
    done = subprocess.run(
        [sys.executable, "-c", PUTTING],
        env=running.env()
        | {"GLOWPLUG_QUIET": "1", "PYTHONPATH": f"{APPS}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    put = json.loads(done.stdout)
    assert len(put["wanted"]) == TASKS
    for pid in [*ready["parts"].values(), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait(60)
    process.stdout.close()
    eventually_sync(lambda: processes_of(data) == [], what="processes gone")

    process, ready = start_up(data, "--port", "0")
    try:
        running = Running(ready["url"], token, data)
        # A container may be ready before what held the slot is known to be lost: then others go first, in
        # their order. But it runs again, as everything that was lost, and now it may end.
        eventually_sync(lambda: held_again(running, put["holder"]), within_s=60)
        assert running.http("DELETE", f"/tasks/{put['holder']}").status == 200
        eventually_sync(lambda: len(listed(running, "completed")) == TASKS, within_s=180)
        ended = sorted(listed(running, "completed"), key=lambda one: one["ended_at"])
        order = sorted(put["wanted"], key=lambda one: -one[1])  # and as they came, where equal
        assert [one["task_id"] for one in ended] == [task for task, _ in order]
        assert {one["attempt"] for one in ended} == {1}
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
