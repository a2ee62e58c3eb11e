"""A task that need not wait, with nobody there to hand it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.conftest import Running
from tests.e2e.test_lifecycle import start_up
from tests.support.eventually import eventually_sync

# Without a slot known it waits for the scheduler: then it is asked again soon.
WAIT_S = 2


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_task_for_a_warm_slot_needs_no_scheduler(tmp_path):
    process, ready = start_up(tmp_path / "data", "--port", "0")
    token = Path(ready["token_file"]).read_text().strip()
    running = Running(ready["url"], token, tmp_path / "data")

    def put(value: int) -> str:
        return running.http("POST", "/taskqueue/number", {"value": value}).json()["task_id"]

    def result(task: str, wait_s: int):
        return running.http("GET", f"/api/v1/tasks/{task}/result?wait_s={wait_s}")

    def ran_without() -> bool:
        assert result(put(1), 60).json() == 1  # warm
        with stopped(ready["parts"]["scheduler"]):
            task = put(7)
            alone = result(task, WAIT_S).status == 200
        assert result(task, 60).json() == 7
        shown = running.http("GET", f"/api/v1/tasks/{task}").json()
        assert (shown["status"], shown["attempt"]) == ("COMPLETE", 1)
        return alone

    try:
        running.cli("deploy", "queues.py:number")
        eventually_sync(ran_without, within_s=60)
        # What the scheduler had not seen begin does not stay on its hands.
        eventually_sync(lambda: in_flight(running) == 0)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def in_flight(running: Running) -> int:
    (deployment,) = running.http("GET", "/api/v1/deployments?name=number").json()["deployments"]
    return deployment["in_flight"] + deployment["queued"]
