"""Up, down, killed, started again: nothing is left and nothing is forgotten."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import APPS, Running, a_platform
from tests.support.eventually import eventually_sync
from tests.support.nats import free_port


def processes_of(data: Path) -> list[str]:
    """Every process that has the data directory on its command line or in its environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if str(data).encode() in told:
                    found.append((process / "cmdline").read_bytes().decode())
    return found


def mounts() -> set[str]:
    return set(Path("/proc/self/mounts").read_text().splitlines())


def start_up(data: Path, *extra: str) -> tuple[subprocess.Popen, dict]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "glowplug.cli.main",
            "up",
            "--json",
            "--no-profile",
            "--data",
            str(data),
            *extra,
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] in ("ready", "error"):
            return process, event
    raise AssertionError("it ended without a word")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_however_it_ends(tmp_path, name):
    before = mounts()
    data = tmp_path / "data"
    process, ready = start_up(data, "--port", "0")
    running = Running(ready["url"], Path(ready["token_file"]).read_text().strip(), data)
    assert running.cli("run", "basics.py::triple", "--value", "2").stdout.strip().endswith("6")
    process.send_signal(getattr(signal, name))
    process.wait(60)
    process.stdout.close()
    eventually_sync(lambda: processes_of(data) == [], what="processes gone")
    assert mounts() == before


def test_a_second_up_names_who_holds_the_port(tmp_path):
    port = str(free_port())
    first, ready = start_up(tmp_path / "one", "--port", port)
    second, error = start_up(tmp_path / "two", "--port", port)
    third, taken = start_up(tmp_path / "one", "--port", "0")
    try:
        assert error["event"] == "error"
        assert port in error["message"]
        assert "pid" in error["message"]
        assert taken["event"] == "error"
        assert str(ready["pid"]) in taken["message"]
    finally:
        for process in (first, second, third):
            process.terminate()
            process.wait(60)
            process.stdout.close()


def test_detached_it_runs_on_and_down_ends_it(tmp_path):
    data = tmp_path / "data"
    env = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    for name in ("GLOWPLUG_URL", "GLOWPLUG_TOKEN"):
        env.pop(name, None)

    def glowplug(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "glowplug.cli.main", *arguments]
        return subprocess.run(
            command, env=env, cwd=APPS, capture_output=True, text=True, timeout=120
        )

    up = glowplug("up", "--detach", "--port", "0", "--data", str(data))
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        assert len(up.stdout.splitlines()) <= 12
        assert json.loads(glowplug("status", "--json").stdout)["status"] == "ok"
        assert glowplug("run", "basics.py::triple", "--value", "2").stdout.strip().endswith("6")
        assert "all parts are well" in glowplug("doctor").stdout
    finally:
        down = glowplug("down", "--data", str(data))
    assert down.returncode == 0, down.stdout + down.stderr
    assert processes_of(data) == []
    assert glowplug("down", "--data", str(data)).returncode == 0


def test_a_part_that_dies_is_started_again_and_said(tmp_path):
    process, ready = start_up(tmp_path / "data", "--port", "0")
    token = Path(ready["token_file"]).read_text().strip()
    running = Running(ready["url"], token, tmp_path / "data")
    try:
        for part in ("worker-1", "scheduler", "broker"):
            os.kill(ready["parts"][part], signal.SIGKILL)
            restarted = json.loads(process.stdout.readline())
            assert (restarted["event"], restarted["part"]) == ("restarted", part)
            assert restarted["ended"] == "SIGKILL"
            called = eventually_sync(
                lambda: running.cli("run", "basics.py::triple", "--value", "2", check=False).stdout
            )
            assert called.strip().endswith("6")
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def test_the_app_answers_after_down_and_up_on_the_same_directory(tmp_path):
    data = tmp_path / "data"
    with a_platform(data) as running:
        running.cli("deploy", "basics.py:greet")
        assert running.http("POST", "/endpoint/greet", {"name": "x"}).status == 200
        task = None
    with a_platform(data) as running:
        assert task is None
        assert running.http("POST", "/endpoint/greet", {"name": "x"}).json() == {
            "greeting": "hello x"
        }
        listed = json.loads(running.cli("deployment", "list", "--json").stdout)
        assert "greet" in json.dumps(listed)
        assert "greet" in running.cli("deployment", "show", "greet").stdout
        running.cli("deployment", "delete", "greet")
        assert running.http("POST", "/endpoint/greet", {"name": "x"}).status == 404


def test_min_containers_are_there_before_the_first_call(tmp_path):
    app = tmp_path / "app" / "warm.py"
    app.parent.mkdir()
    (app.parent / ".glowplugignore").touch()
    app.write_text(
        "from glowplug import QueueDepthAutoscaler, endpoint\n\n\n"
        "@endpoint(cpu=0.01, memory=64, autoscaler=QueueDepthAutoscaler(min_containers=1))\n"
        "def warm() -> str:\n    return 'warm'\n"
    )
    with a_platform(tmp_path / "data") as running:
        running.cli("deploy", str(app))
        eventually_sync(lambda: [c["state"] for c in running.containers("warm")] == ["ready"])
        first = running.containers("warm")[0]["container_id"]
        assert running.http("POST", "/endpoint/warm", {}).json() == "warm"
        assert [c["container_id"] for c in running.containers("warm")] == [first]


def test_ctrl_c_in_the_client_cancels_its_call(platform):
    program = subprocess.Popen(
        [sys.executable, "-c", "import basics; basics.sleeps.remote(600)"],
        env=platform.env(),
        cwd=APPS,
        stderr=subprocess.DEVNULL,
    )
    eventually_sync(
        lambda: any(c.get("in_flight") for c in platform.containers("sleeps")), what="the call runs"
    )
    program.send_signal(signal.SIGINT)
    program.wait(30)
    eventually_sync(
        lambda: not any(c.get("in_flight") for c in platform.containers("sleeps")),
        what="the call is cancelled",
    )


def test_output_of_user_code_appears_in_order_in_a_program_and_in_logs(platform):
    done = platform.cli("run", "basics.py::talks", "--name", "Ada")
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    assert [line for line in lines if line.endswith("Ada") and " " in line][:2] == [
        "hello Ada",
        "bye Ada",
    ]
    platform.cli("deploy", "basics.py:talks")
    platform.cli("call", "talks", "name=Eve")
    logged = eventually_sync(
        lambda: (out := platform.cli("logs", "talks").stdout) and "bye Eve" in out and out
    )
    assert logged.index("hello Eve") < logged.index("bye Eve")
