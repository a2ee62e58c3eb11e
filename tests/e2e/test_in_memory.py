"""`up --in-memory`: quick, and it says what it gives up; without it nothing of that is said or true."""

from __future__ import annotations

from tests.e2e.conftest import a_platform

LOST = "are lost when the broker ends"


def accept_one(running) -> str:
    """Have one durable task accepted and done; return its id."""
    running.cli("deploy", "basics.py:add")
    task = running.http("POST", "/taskqueue/add", {"a": 1, "b": 2}).json()["task_id"]
    assert running.http("GET", f"/api/v1/tasks/{task}/result?wait_s=30").status == 200
    return task


def test_in_memory_says_what_it_gives_up_and_gives_it_up(tmp_path):
    with a_platform(tmp_path / "data", "--in-memory") as running:
        assert LOST in running.cli("status").stdout
        assert LOST in running.cli("doctor", check=False).stdout
        task = accept_one(running)
    with a_platform(tmp_path / "data", "--in-memory") as running:
        assert running.http("GET", f"/api/v1/tasks/{task}").status == 404
    assert not (tmp_path / "data" / "broker" / "store").exists()


def test_the_default_keeps_what_was_accepted_and_says_so(tmp_path):
    with a_platform(tmp_path / "data") as running:
        assert LOST not in running.cli("status").stdout
        assert "accepted work is fsynced" in running.cli("doctor", check=False).stdout
        task = accept_one(running)
    with a_platform(tmp_path / "data") as running:
        assert running.http("GET", f"/api/v1/tasks/{task}").json()["state"] == "completed"
