"""Nothing is left of containers that start and stop, nor of those whose worker is killed in the middle.

A sample of `just churn`; and every kind of leftover is planted once, to show that it would be noticed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glowplug_worker import janitor
from glowplug_worker.inventory import open_directory
from glowplug_worker.ports import Limits
from glowplug_worker.runtime.cgroups import open_cgroups
from glowplug_worker.starting import record_process

from faults.churn import Asked, run
from faults.remains import Remains
from tests.support.internet import lacks

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts and makes namespaces")
WORKER, PREFIX = "planted", "ctr_planted"


def test_starts_and_stops_and_kills_in_the_middle_leave_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    network = "auto" if lacks() else "own"
    found = run(Asked(starts=24, kills=2, network=network, seed=1), tmp_path)
    assert (found["left"], found["failed"]) == ([], [])
    assert found["starts"] == 24
    assert found["ready"] >= 10


# -- what would be noticed -------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    data = tmp_path / "worker-1"
    (data / "containers" / PREFIX / "scratch").mkdir(parents=True)
    (data / "lock").touch()
    return data


def container(directory: Path) -> Path:
    return directory / "containers" / PREFIX


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextlib.contextmanager
def a_process(directory: Path) -> Iterator[None]:
    env = {"GLOWPLUG_CONTAINER_ID": PREFIX}
    code = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True) as process:
        record_process(container(directory), process.pid)
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def a_cgroup(directory: Path) -> Iterator[None]:
    groups = open_cgroups(directory)
    if not groups.paths:
        pytest.skip(f"no control groups here: {groups.reason}")
    groups.make(PREFIX, Limits())
    yield
    groups.close()


@contextlib.contextmanager
def a_mount(directory: Path) -> Iterator[None]:
    volume = directory.parent / "volume"
    volume.mkdir()
    (volume / "precious").touch()
    target = container(directory) / "scratch"
    try:
        sh("mount", "--bind", str(volume), str(target))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-q", str(target)], check=False, capture_output=True)
    assert (volume / "precious").exists(), "what is behind a mount is not the container's"


@contextlib.contextmanager
def a_loop_device(directory: Path) -> Iterator[None]:
    image = container(directory) / "disk.img"
    image.write_bytes(bytes(1 << 20))
    try:
        device = subprocess.run(
            ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop devices here: {error}")
    try:
        yield
    finally:
        subprocess.run(["losetup", "-d", device], check=False, capture_output=True)


@contextlib.contextmanager
def a_socket(directory: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(container(directory), os.O_RDONLY)
        try:
            listening.bind(f"/proc/self/fd/{here}/s")
        finally:
            os.close(here)
        listening.listen()
        yield


@contextlib.contextmanager
def nothing_more(directory: Path) -> Iterator[None]:
    yield


PLANTED: dict[str, Callable[[Path], contextlib.AbstractContextManager[None]]] = {
    "directory": nothing_more,
    "process": a_process,
    "cgroup": a_cgroup,
    "mount": a_mount,
    "loop device": a_loop_device,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in ("directory", "process") else ROOT) for k in PLANTED]
)
def test_what_is_planted_is_noticed_and_the_janitor_removes_it(kind: str, directory: Path) -> None:
    remains = Remains(directory, WORKER, PREFIX)
    with PLANTED[kind](directory):
        assert kind in remains.of_containers()
        with open_directory(directory):
            assert janitor.sweep(directory) == 1
        left = remains.of_containers()
        left.pop("process", None)  # killed; only this test can reap its own child
        assert left == {}
        assert not container(directory).exists()


def test_what_is_left_of_a_probe_is_removed(directory: Path) -> None:
    shutil.rmtree(container(directory))
    (directory / "probe-x").mkdir()
    remains = Remains(directory, WORKER, PREFIX)
    assert remains.of_containers() == {"directory": [str(directory / "probe-x")]}
    janitor.sweep(directory)
    assert remains.of_containers() == {}


@ROOT
@pytest.mark.parametrize("kind", ["netns", "veth", "nft"])
def test_networks_that_are_left_are_noticed(kind: str, directory: Path) -> None:
    remains = Remains(directory, WORKER, PREFIX)
    name = remains.network
    make, remove = {
        "netns": (["ip", "netns", "add", name], ["ip", "netns", "del", name]),
        "veth": (
            ["ip", "link", "add", f"gp{name}", "type", "veth", "peer", "name", f"gx{name}"],
            ["ip", "link", "del", f"gp{name}"],
        ),
        "nft": (
            ["nft", "add", "table", "inet", f"glowplug_{name}"],
            ["nft", "delete", "table", "inet", f"glowplug_{name}"],
        ),
    }[kind]
    if not shutil.which(make[0]):
        pytest.skip(f"{make[0]} is not installed")
    try:
        sh(*make)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this host can't: {error.stderr.decode().strip()}")
    try:
        assert kind in remains.of_all()
    finally:
        sh(*remove)
    assert kind not in remains.of_all()


def test_a_socket_that_is_left_is_noticed(directory: Path) -> None:
    remains = Remains(directory, WORKER, PREFIX)
    with a_socket(directory):
        assert remains.of_containers()["socket"] == [str(container(directory) / "s")]
