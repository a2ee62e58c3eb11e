"""Limits bite, and the kernel's own counts say so: memory, processors, processes."""

from __future__ import annotations

import errno
import signal

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.ports import Limits
from glowplug_worker.runtime import cgroups, disks

from tests.support.containers import open_container

MIB = 1 << 20


@pytest.fixture
def limited(backend):
    """A backend that holds containers to limits; skipped where this host's kernel lets nobody."""
    if not {"memory", "cpu", "pids"} <= backend.enforces:
        pytest.skip(f"{backend.name} can only enforce {sorted(backend.enforces)} here")
    return backend


async def test_too_much_memory_is_killed_by_the_kernel_which_says_so(limited, tmp_path):
    code = "say(1)\nkept = []\nwhile True: kept.append(bytes(1 << 20))"
    limits = Limits(memory_bytes=48 * MIB)
    async with open_container(limited, tmp_path / "c", code, limits=limits) as inside:
        await inside.said()
        end = await inside.container.wait()
    assert end.signal == signal.SIGKILL
    assert end.evidence.oom_kills > 0
    assert end.evidence.limits == limits
    assert 40 * MIB < end.evidence.memory_peak_bytes <= 48 * MIB


async def test_a_fork_bomb_is_refused_at_the_limit(limited, tmp_path):
    code = (
        "import time\n"
        "forked = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0: time.sleep(600)\n"
        "        forked += 1\n"
        "except BlockingIOError:\n"
        "    say(forked)\n"
    )
    limits = Limits(pids=64)
    async with open_container(limited, tmp_path / "c", code, limits=limits) as inside:
        forked = await inside.said()
        end = await inside.container.wait()
    assert 40 < forked < 64  # what it runs in counts, too
    assert end.evidence.pids_refused > 0


async def test_limits_hold_from_the_first_instruction(limited, tmp_path):
    """What makes the container is held, too: with room for one process there is nobody to run the code."""
    if not limited.mounts:
        pytest.skip("nothing stands between a plain process and its code")
    try:
        async with open_container(
            limited, tmp_path / "c", "say(1)", limits=Limits(pids=1)
        ) as inside:
            with pytest.raises(AssertionError, match="the container ended"):
                await inside.said()
            end = await inside.container.wait()
    except UnavailableError as error:
        assert "start" in error.message  # noqa: PT017 - which of the two depends on the backend
    else:
        assert end.code != 0
        assert end.evidence.pids_refused > 0


async def test_processor_time_beyond_the_limit_is_withheld(limited, tmp_path):
    code = (
        "import time\n"
        "used = time.process_time()\n"
        "while time.process_time() - used < 0.1: pass\n"
        "say(1)\n"
    )
    limits = Limits(cpu_millis=50)
    async with open_container(limited, tmp_path / "c", code, limits=limits) as inside:
        await inside.said()
        end = await inside.container.wait()
    # A twentieth of a core, which even a busy host has to give: most of the time it waits.
    assert end.evidence.cpu_throttled_s > 0.3


async def test_a_child_that_dies_for_memory_is_not_the_containers_end(limited, tmp_path):
    code = (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    kept = []\n"
        "    while True: kept.append(bytes(1 << 20))\n"
        "say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    limits = Limits(memory_bytes=48 * MIB)
    async with open_container(limited, tmp_path / "c", code, limits=limits) as inside:
        assert await inside.said() == -signal.SIGKILL
        end = await inside.container.wait()
    assert (end.code, end.signal) == (0, None)
    assert end.evidence.oom_kills == 1


async def test_a_disk_takes_so_many_bytes_and_files(limited, tmp_path):
    if "disk" not in limited.enforces:
        pytest.skip(f"{limited.name} has no disks here: {disks.why_none() or 'it is no sandbox'}")
    code = (
        "def until_full(step):\n"
        "    done = 0\n"
        "    try:\n"
        "        for n in range(100_000): done += step(n)\n"
        "    except OSError as error: return done, error.errno\n"
        "kept = open('/tmp/large', 'wb', buffering=0)\n"
        "say(until_full(lambda n: kept.write(bytes(1 << 20))))\n"
        "hear()\n"
        "kept.truncate(0)\n"
        "os.mkdir('/tmp/many')\n"
        "say(until_full(lambda n: open(f'/tmp/many/{n}', 'w').close() or 1))\n"
    )
    limits = Limits(disk_bytes=32 * MIB, disk_inodes=1000, memory_bytes=256 * MIB)
    async with open_container(limited, tmp_path / "c", code, limits=limits) as inside:
        written, error = await inside.said()
        assert 24 * MIB <= written < 32 * MIB  # the last write of all may be a short one
        assert error == errno.ENOSPC
        seen = inside.container.evidence()
        assert seen.disk_full
        assert 24 * MIB < seen.disk_bytes <= 32 * MIB
        await inside.tell()
        files, error = await inside.said()
        assert 900 < files < 1000
        assert error == errno.ENOSPC
        end = await inside.container.wait()
    assert end.evidence.disk_full
    assert end.evidence.disk_inodes >= 1000
    assert not [path for path in (tmp_path / "c").iterdir() if path.suffix == ".img"]


async def test_the_next_worker_of_the_directory_removes_the_groups_of_a_dead_one(tmp_path):
    groups = cgroups.open_cgroups(tmp_path)
    if not groups.holds:
        pytest.skip(f"no control groups: {groups.reason}")
    group = groups.make("ctr_left", Limits(pids=8))
    assert all(path.is_dir() for path in group.paths)
    assert cgroups.sweep(tmp_path) == 1
    assert not any(path.exists() for path in groups.paths)


async def test_groups_that_are_not_provably_ours_are_left_alone(tmp_path):
    groups = cgroups.open_cgroups(tmp_path)
    if not groups.holds:
        pytest.skip(f"no control groups: {groups.reason}")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / cgroups.NOTE_FILE).write_bytes((tmp_path / cgroups.NOTE_FILE).read_bytes())
    assert cgroups.sweep(stranger) == 0
    assert all(path.exists() for path in groups.paths)
    groups.close()
    assert not any(path.exists() for path in groups.paths)
