"""A deployed schedule fires by itself, tells its function the due time, and is handled from the shell."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from glowplug import FunctionCall

from tests.support.eventually import eventually_sync


@pytest.fixture(scope="module")
def deployed(platform):
    platform.cli("deploy", "clockwork.py")
    yield platform
    for name in ("heartbeat", "nightly"):
        platform.cli("deployment", "delete", name)


def show(platform, name):
    return json.loads(platform.cli("schedule", "show", name, "--json").stdout)


def test_it_fires_and_its_function_gets_the_due_time(deployed) -> None:
    found = eventually_sync(lambda: (s := show(deployed, "heartbeat"))["fired"] >= 3 and s)
    fired = [line for line in found["history"] if line["outcome"] == "fired"]
    due = sorted(line["due"] for line in fired)
    assert due == [due[0] + number for number in range(len(due))]
    first = fired[-1]
    told = FunctionCall.from_id(first["task_id"]).get(timeout=60)
    assert told == dt.datetime.fromtimestamp(first["due"], dt.UTC)


def test_pause_resume_next_and_list(deployed) -> None:
    deployed.cli("schedule", "pause", "heartbeat")
    rows = {
        row["name"]: row
        for row in json.loads(deployed.cli("schedule", "list", "--json").stdout)["schedules"]
    }
    assert rows["heartbeat"]["paused"]
    assert rows["nightly"]["next_due"]
    assert "paused" in deployed.cli("schedule", "show", "heartbeat").stdout
    upcoming = deployed.cli("schedule", "next", "nightly", "--count", "2").stdout.split("\n")
    assert [line[-6:] for line in upcoming[:2]] in (["00:00Z"] * 2, [":00Z"] * 2)
    before = show(deployed, "heartbeat")["fired"]
    assert "next" in deployed.cli("schedule", "resume", "heartbeat").stdout
    eventually_sync(lambda: show(deployed, "heartbeat")["fired"] > before + 1)


def test_run_now_over_http_and_from_the_shell(deployed) -> None:
    for task in (
        deployed.http("POST", "/schedule/nightly").json()["task_id"],
        deployed.cli("schedule", "run", "nightly").stdout.strip(),
    ):
        assert FunctionCall.from_id(task).get(timeout=60) == {"cleaned": 3}


def test_an_unknown_zone_is_refused_when_it_is_deployed(platform, tmp_path) -> None:
    app = tmp_path / "lost.py"
    app.write_text(
        "from glowplug import schedule\n"
        '@schedule("@daily", timezone="Mars/Olympus")\n'
        "def lost(): ...\n"
    )
    done = platform.cli("deploy", str(app), check=False)
    assert done.returncode == 1
    assert "no IANA time zone" in done.stderr


def test_a_schedules_function_is_called_like_any_other(platform) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("night", _write(platform.data.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tidy.remote() is None


def _write(folder):
    path = folder / "night.py"
    path.write_text(
        "from glowplug import schedule\n"
        '@schedule("@daily", cpu=0.01, memory=64)\n'
        "def tidy(context):\n"
        "    return context.scheduled_for\n"
    )
    return path
