"""The data directory's disk is full: `up` says so, and all goes on once there is room. As root: a disk of one's own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from glowplug_local import doctor

from faults.disk import a_disk, why_not
from faults.storage import fill
from tests.e2e.conftest import Running
from tests.support.eventually import eventually_sync

pytestmark = [pytest.mark.root]

DISK_MIB = 768  # the image cache leaves 512 free
LARGE = b"2" * 100_000  # more than fits into what a file has already


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    if reason := why_not():
        pytest.skip(reason)
    with a_disk(tmp_path_factory.mktemp("full"), DISK_MIB) as found:
        yield found.mount


@contextlib.contextmanager
def up(data, said):
    """Run `glowplug up`; what it says goes to a file on another disk."""
    command = [sys.executable, "-m", "glowplug.cli.main", "up", "--json", "--port", "0"]
    command += ["--no-profile", "--data", str(data)]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stdin=subprocess.DEVNULL)
    try:
        yield lambda: [json.loads(line) for line in said.read_text().splitlines()]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_what_a_full_disk_froze_goes_on_by_itself_once_there_is_room(disk, tmp_path, monkeypatch):
    with up(disk / "data", tmp_path / "said") as told, ThreadPoolExecutor(1) as beside:
        ready = eventually_sync(
            lambda: next((one for one in told() if one["event"] == "ready"), None), within_s=60
        )
        token = Path(ready["token_file"]).read_text().strip()
        running = Running(ready["url"], token, disk / "data")
        monkeypatch.setenv("GLOWPLUG_URL", running.url)
        item = "/api/v1/maps/kept/item?key=k"

        def write(value):
            return running.http("PUT", item, value).status

        def events():
            return [one["event"] for one in told()]

        assert write(b"1") < 300
        ballast = fill(disk)
        refused = beside.submit(write, LARGE)
        eventually_sync(lambda: "disk_full" in events(), within_s=60)
        health = running.http("GET", "/health")
        assert health.status == 503
        assert "make room" in health.json()["parts"]["broker"]["reason"]
        assert "make room" in doctor.check_platform().found
        assert running.http("GET", item).body == b"1"
        assert "mending" not in events()
        ballast.unlink()
        eventually_sync(lambda: "mending" in events(), within_s=60)
        # Not acknowledged while the disk was full; it may have been written by its own last try.
        assert refused.result(60) in (200, 503)
        eventually_sync(lambda: write(b"3") < 300, within_s=60)
        assert running.http("GET", item).body == b"3"
        eventually_sync(lambda: running.http("GET", "/health").status == 200, within_s=60)
