"""Workers out of service and back, functions that say goodbye, and what their logs say afterwards."""

from __future__ import annotations

import base64
import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, a_platform
from tests.support.eventually import eventually_sync

pytestmark = pytest.mark.e2e
SAID = ["called with one", "from a child process", "closing the connection"]


def texts(output: str) -> list[str]:
    found = map(json.loads, output.splitlines())
    return [one["text"].rstrip("\n") for one in found if "text" in one]


def lines(running: Running, query: str) -> list[str]:
    return texts(running.http("GET", f"/api/v1/logs?{query}").body.decode())


def ended(running: Running, name: str) -> list[dict[str, Any]]:
    found = running.http("GET", f"/api/v1/containers?all=1&deployment={name}").json()
    return [one for one in found["containers"] if one["state"] in {"stopped", "failed"}]


def state(running: Running, task: str) -> str:
    return running.http("GET", f"/tasks/{task}/status").json()["state"]


def open_gate(running: Running) -> None:
    item = {"format": "pickle", "data": base64.b64encode(pickle.dumps(None)).decode()}
    assert running.http("POST", "/api/v1/queues/gate/items", {"items": [item]}).status == 200


def test_a_drain_lets_containers_end_well_and_it_is_told_even_after_a_restart(
    tmp_path: Path,
) -> None:
    began = time.time()
    with a_platform(tmp_path / "data", "--gpus", "A10G:2") as running:
        running.cli("deploy", "leaving.py")
        # Both are warm at once, on one simulated device of 24 GiB, while the other one stays whole.
        parts = [running.cli("call", name).stdout for name in ("part_of_a_gpu", "another_part")]
        assert parts == ["simulated-A10G-0\n"] * 2
        assert running.cli("call", "leaves", "text=one").stdout.strip() == "one"
        task = running.cli("call", "waits", "gate=gate").stdout.strip()
        eventually_sync(lambda: lines(running, f"invocation={task}") == ["waiting"])

        drained = running.cli("worker", "drain", "worker-1", "--no-wait").stdout
        assert drained.startswith("worker-1 takes nothing new; it holds 4 containers")
        (left,) = eventually_sync(lambda: ended(running, "leaves"))
        assert (left["state"], left["reason"], left["name"]) == (
            "stopped",
            "worker_draining",
            "leaves",
        )
        assert state(running, task) == "running"
        open_gate(running)
        running.cli("worker", "drain", "worker-1")
        assert state(running, task) == "completed"
        assert "drained" in running.cli("worker", "list").stdout
    with a_platform(tmp_path / "data") as running:
        assert "drained" in running.cli("worker", "show", "worker-1").stdout
        # Its containers are gone, and the platform was away in between.
        assert lines(running, f"deployment=leaves&since={began}") == SAID
        assert lines(running, f"container={left['container_id']}") == SAID
        assert lines(running, f"since={began + 86_400}") == []
        logged = running.cli("logs", "--json", "--function", "leaves", "--since", "1h").stdout
        assert texts(logged) == SAID
        logged = running.cli("logs", "--json", "--task", task).stdout
        assert texts(logged) == ["waiting", "done waiting"]
        listed = running.cli("container", "list", "--all", "--deployment", "leaves").stdout
        assert "worker_draining" in listed
        assert running.cli("worker", "uncordon", "worker-1").stdout == (
            "worker-1 is in service; it is empty\n"
        )
        assert running.cli("call", "leaves", "text=two").stdout.strip() == "two"
