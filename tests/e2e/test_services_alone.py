"""Each service by its own command on an external broker, two of each, killed and started under a running map."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug_contracts.permissions import SERVICES

from tests.e2e.conftest import APPS, Running
from tests.support.eventually import eventually_sync
from tests.support.nats import free_port, open_nats_server

TOKEN = "gp_test_token"
END_S = 120
# It maps for as long as the test kills, and keeps the file `count` up to date; the file `stop` ends it.
MAPPING = """
import itertools, pathlib, sys, basics
directory = pathlib.Path(sys.argv[1])
stop, so_far = directory / "stop", directory / "count"
inputs = itertools.takewhile(lambda _: not stop.exists(), itertools.count())
count = 0
for count, result in enumerate(basics.slow_triple.map(inputs), 1):
    assert result == 3 * (count - 1), f"{result} in place {count - 1}: lost, doubled or out of order"
    so_far.write_text(str(count))
print(f"all {count} there")
"""


class Fleet:
    """Two replicas of every service, started and killed one by one."""

    def __init__(self, directory: Path, nats_url: str) -> None:
        self._directory = directory
        self._nats_url = nats_url
        self.ports = [free_port(), free_port()]
        self.processes: dict[str, subprocess.Popen] = {}
        (directory / "token").write_text(TOKEN)
        (directory / "internal").write_text("internal-token-of-the-test")
        (directory / "logs").mkdir()

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def start(self, service: str, replica: int) -> None:
        name = f"{service}-{replica}"
        # imagecache's replicas on one host share their directory: names are digests, writes are renames.
        data = self._directory / (service if service == "imagecache" else name)
        data.mkdir(exist_ok=True)
        prefix = f"GLOWPLUG_{service.upper()}_"
        env = {
            "NATS_URL": self._nats_url,
            "INSTANCE": name,
            "DATA_DIR": str(data),
            "INTERNAL_TOKEN_FILE": str(self._directory / "internal"),
        }
        if service == "gateway":
            env |= {"PORT": str(self.ports[replica]), "TOKEN_FILE": str(self._directory / "token")}
        with (self._directory / "logs" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).with_name(f"glowplug-{service}"))],
                env=os.environ | {prefix + key: value for key, value in env.items()},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, service: str, replica: int) -> None:
        process = self.processes.pop(f"{service}-{replica}")
        process.kill()
        process.wait()

    def healthy(self, replica: int = 0) -> bool:
        running = Running(self.urls[replica], TOKEN, self._directory)
        with contextlib.suppress(OSError):
            return running.http("GET", "/health").json()["status"] == "ok"
        return False

    def await_end(self, program: subprocess.Popen) -> tuple[str, str]:
        """Return what the program said; if it hangs, say what the platform thinks of it."""
        try:
            return program.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            for url in self.urls:
                running = Running(url, TOKEN, self._directory)
                for path in ("/api/v1/deployments?all=1", "/api/v1/workers"):
                    print(url, path, running.http("GET", path).body.decode())
            raise

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def fleet(tmp_path) -> Iterator[Fleet]:
    with open_nats_server(tmp_path / "nats") as server:
        fleet = Fleet(tmp_path, server.url)
        try:
            for replica in (0, 1):
                for service in reversed(SERVICES):
                    fleet.start(service, replica)
            for replica in (0, 1):
                eventually_sync(lambda replica=replica: fleet.healthy(replica), within_s=60)
            yield fleet
        finally:
            fleet.stop()


def test_every_service_may_be_killed_and_started_under_a_running_map(fleet, tmp_path):
    seed = int(os.environ.get("GLOWPLUG_TEST_SEED") or random.randrange(10**6))
    print(f"seed {seed}: GLOWPLUG_TEST_SEED={seed} repeats this order")
    victims = [(service, replica) for service in SERVICES for replica in (0, 1)]
    random.Random(seed).shuffle(victims)
    program = subprocess.Popen(
        [sys.executable, "-c", MAPPING, str(tmp_path)],
        cwd=APPS,
        env=os.environ
        | {
            "GLOWPLUG_URL": ",".join(fleet.urls),
            "GLOWPLUG_TOKEN": TOKEN,
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def results() -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((tmp_path / "count").read_text())
        return 0

    try:
        for service, replica in victims:
            before = results()
            eventually_sync(lambda before=before: results() > before, within_s=60)
            fleet.kill(service, replica)
            fleet.start(service, replica)
            eventually_sync(lambda: fleet.healthy(0) and fleet.healthy(1), within_s=60)
        assert program.poll() is None, program.communicate()
        (tmp_path / "stop").touch()
        said, _ = fleet.await_end(program)
    finally:
        program.kill()
    assert program.returncode == 0, (seed, said[-3000:])
    count = int(re.search(r"all (\d+) there", said).group(1))
    assert count > len(victims), (seed, said[-3000:])


def test_lists_name_both_replicas_of_every_service(fleet):
    running = Running(fleet.urls[1], TOKEN, Path())
    wanted = {(service, f"{service}-{replica}") for service in SERVICES for replica in (0, 1)}

    def both_are_named() -> bool:
        found = running.http("GET", "/api/v1/services").json()["services"]
        return wanted <= {(one["service"], one["instance"]) for one in found}

    eventually_sync(both_are_named, within_s=60)
