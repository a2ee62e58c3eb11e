"""Processes that the launcher starts: our own children, with what they were given and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.runtime.child import Birth
from glowplug_worker.runtime.launcher.client import FDS_MAX, Launcher, open_launcher
from glowplug_worker.runtime.python import own_python
from glowplug_worker.runtime.tree import fork

from tests.support.eventually import eventually

PYTHON = str(own_python().executable)
WITHIN_S = 60
TELL = """
import json, os, sys
wire = int(sys.argv[1])
fds = [int(each) for each in os.listdir("/proc/self/fd")]
left = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps({
    "parent": os.getppid(), "leader": os.getsid(0) == os.getpid(), "fds": left, "cwd": os.getcwd(),
    "env": sorted(os.environ),
}), flush=True)
os.write(wire, b"done")
"""


@pytest.fixture
async def launcher():
    opened = open_launcher()
    if opened is None:
        pytest.skip("there is no launcher for this machine yet")
    yield opened
    opened.close()


def a_birth() -> Birth:
    return Birth(parent=os.getpid())


async def read_all(fd: int) -> bytes:
    def read() -> bytes:
        parts = []
        os.set_blocking(fd, True)
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    return await asyncio.wait_for(asyncio.to_thread(read), WITHIN_S)


async def started(launcher: Launcher, code: str, fds: tuple[int, ...] = (), **more):
    argv = (PYTHON, "-I", "-S", "-c", code, *map(str, fds))
    return await fork(argv, {"ONLY": "this"}, a_birth(), fds, launcher=launcher, **more)


async def test_it_is_our_child_with_what_it_was_given_and_nothing_else(launcher, tmp_path):
    ours, theirs = socket.socketpair()
    # A number that is another's in the launcher, and one far above.
    high = os.dup2(theirs.fileno(), 700)
    with ours, theirs:
        child, output = await started(launcher, TELL, (high,), cwd=str(tmp_path))
        os.close(high)
        theirs.close()
        said = await read_all(output)
        os.close(output)
        assert ours.recv(10) == b"done"
    assert child.wait() == 0
    found = json.loads(said)
    assert found["parent"] == os.getpid()
    assert (found["leader"], found["cwd"]) == (True, str(tmp_path))
    assert found["fds"] == [0, 1, 2, 700]
    assert "ONLY" in found["env"]
    assert "PATH" not in found["env"]


async def test_it_ignores_no_signal(launcher):
    argv = ("/bin/grep", "SigIgn", "/proc/self/status")
    child, output = await fork(argv, {}, a_birth(), (), launcher=launcher)
    assert int((await read_all(output)).split()[1], 16) == 0
    os.close(output)
    assert child.wait() == 0


async def test_its_end_is_told_as_it_was(launcher):
    for code, wanted in (("import sys; sys.exit(7)", 7), ("import os; os.abort()", -6)):
        child, output = await started(launcher, code)
        assert await asyncio.to_thread(child.wait) == wanted
        os.close(output)


async def test_what_cannot_be_started_says_why_and_leaves_nothing(launcher):
    before = _own_fds(), _own_children()
    for argv, birth, why in (
        (("/no/such/program",), a_birth(), "No such file"),
        ((PYTHON,), Birth(parent=os.getpid(), joins=("/no/such/group",)), "/no/such/group"),
    ):
        with pytest.raises(UnavailableError, match=why):
            await fork(argv, {}, birth, (), launcher=launcher)
    assert (_own_fds(), _own_children()) == before


async def test_many_at_once_are_told_apart(launcher):
    code = "import sys; print(sys.argv[1])"
    several = await asyncio.gather(
        *(
            fork(
                (PYTHON, "-I", "-S", "-c", code, str(number)),
                {},
                a_birth(),
                (),
                launcher=launcher,
            )
            for number in range(12)
        )
    )
    for number, (child, output) in enumerate(several):
        assert await read_all(output) == f"{number}\n".encode()
        os.close(output)
        assert child.wait() == 0


async def test_without_the_helper_processes_start_all_the_same(launcher):
    os.kill(launcher._process.pid, signal.SIGKILL)
    for _ in range(2):
        child, output = await started(launcher, "print(1)")
        assert await read_all(output) == b"1\n"
        os.close(output)
        assert child.wait() == 0
    assert not launcher.takes(())


async def test_more_descriptors_than_a_packet_carries_go_the_other_way(launcher):
    assert launcher.takes(range(100))
    assert not launcher.takes(range(FDS_MAX))


async def test_a_start_that_nobody_waits_for_leaves_nothing(launcher):
    starting = asyncio.ensure_future(started(launcher, "import time; time.sleep(600)"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    def none_sleeps() -> bool:
        return not any("sleep(600)" in _command(pid) for pid in _own_children())

    await eventually(none_sleeps)


def _own_fds() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def _own_children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(each) for each in text.split()]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""
