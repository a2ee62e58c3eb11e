"""The second net: what a dead worker left is removed, and nothing that lives is touched."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug_worker import janitor
from glowplug_worker.inventory import open_directory
from glowplug_worker.processes import start_ticks, tree, tree_pss_bytes
from glowplug_worker.starting import record_process

from tests.support.eventually import eventually_sync


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A shell with a child."""
    with subprocess.Popen(["sh", "-c", "sleep 600; true"], start_new_session=True) as process:
        eventually_sync(lambda: len(tree(process.pid)) == 2)
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the child, too


def a_container(directory: Path, pid: int) -> Path:
    container = directory / "containers" / "ctr_1"
    (container / "scratch").mkdir(parents=True)
    record_process(container, pid)
    return container


def test_kills_what_a_dead_worker_left_and_removes_its_directories(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    container = a_container(tmp_path / "worker-1", process.pid)
    child = tree(process.pid)[1]
    with open_directory(tmp_path / "worker-1") as directory:
        assert janitor.sweep(directory) == 1
    assert process.wait() == -9
    eventually_sync(lambda: start_ticks(child) == 0)
    assert not container.exists()


def test_a_pid_that_was_given_out_again_is_left_alone(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    container = a_container(tmp_path, process.pid)
    note = container / "process.json"
    note.write_text(note.read_text().replace(str(start_ticks(process.pid)), "12345"))
    assert janitor.sweep(tmp_path) == 1
    assert process.poll() is None


def test_sweeps_dead_siblings_and_leaves_living_ones(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    dead = a_container(tmp_path / "worker-2", process.pid)
    living = a_container(tmp_path / "worker-3", process.pid)
    (tmp_path / "worker-2" / "lock").touch()
    with open_directory(tmp_path / "worker-1") as ours, open_directory(tmp_path / "worker-3"):
        (dead / "process.json").unlink()
        assert janitor.sweep_siblings(ours) == 1
    assert not dead.exists()
    assert living.exists()
    assert process.poll() is None


def test_measures_a_tree(process: subprocess.Popen[bytes]) -> None:
    whole, child = tree_pss_bytes(process.pid), tree_pss_bytes(tree(process.pid)[1])
    assert 0 < child < whole
