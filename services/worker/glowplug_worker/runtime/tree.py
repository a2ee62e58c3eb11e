"""A started container's process tree: watched by pidfd, killed as a whole, given back once.

Common to all backends; each says how its tree is killed and what is left to do after the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import msgspec
from glowplug_contracts.errors import UnavailableError

from glowplug_worker.ports import Evidence, Exit
from glowplug_worker.runtime.cgroups import Cgroup
from glowplug_worker.runtime.child import Birth
from glowplug_worker.runtime.disks import Disk
from glowplug_worker.runtime.launcher.client import Launcher, LauncherGoneError
from glowplug_worker.runtime.settle import settle

STDERR_TAIL_BYTES: Final = 4096
# A wrapper reports a child's death by signal n as exit code 128 + n.
_SIGNAL_BASE: Final = 128
_SIGNALS: Final = 64
_SWEEP_S: Final = 0.01
_CLONE_NEWPID: Final = 0x2000_0000

# Processes are forked in a thread that lives as long as the worker: forking blocks for milliseconds, and
# the parent-death signal fires when the forking *thread* ends.
_FORKING: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fork")


class Process(Protocol):
    """A child of the worker's, as `subprocess` and the launcher make it."""

    pid: int
    returncode: int | None

    def wait(self) -> int:
        """Reap it. Blocks."""


class Tree:
    """A container's processes (`ports.RunningContainer`).

    `kill_rest()` kills what the main process left behind and returns whether nothing lives any more;
    `release()` gives back what the backend held, after that. `group`, `disk`: what it has of its own.
    `was_made()` says whether there was a container at all, or only a runtime that could not make it.
    """

    def __init__(
        self,
        process: Process,
        stderr: int,
        kill_rest: Callable[[], bool],
        release: Callable[[], None],
        group: Cgroup | None = None,
        was_made: Callable[[], bool] = lambda: True,
        disk: Disk | None = None,
    ) -> None:
        self._process = process
        self._kill_rest = kill_rest
        self._release = release
        self._released = False
        self._group = group
        self._was_made = was_made
        self._disk = disk
        self._evidence: Evidence | None = None
        self._unmade: bool | None = None
        self._stderr = stderr
        self._tail = bytearray()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(stderr, self._on_stderr)

    @property
    def pid(self) -> int:
        """Return the host pid of the outermost process."""
        return self._process.pid

    def evidence(self) -> Evidence:
        """Return what the kernel has counted so far."""
        if self._evidence is not None:
            return self._evidence
        found = Evidence() if self._group is None else self._group.evidence()
        if self._disk is None:
            return found
        size, files, full = self._disk.used()
        return msgspec.structs.replace(found, disk_bytes=size, disk_inodes=files, disk_full=full)

    def kill(self) -> None:
        """SIGKILL the whole tree now. May be repeated."""
        if self._released:
            return
        if not self._ended.is_set():
            os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        self._kill_all()

    def _kill_all(self) -> bool:
        """Kill what the main process left behind; return whether nothing lives any more."""
        gone = self._kill_rest()
        return (self._group is None or self._group.kill()) and gone

    async def wait(self) -> Exit:
        """Return when the main process has ended and nothing of the tree lives. May be repeated."""
        await self._ended.wait()
        while not self._released and not self._kill_all():  # noqa: ASYNC110 - only polling tells
            await asyncio.sleep(_SWEEP_S)
        self._evidence = self.evidence()  # its files go with what `close` gives back
        tail = bytes(self._tail).decode(errors="replace")
        if self._unmade is None:
            self._unmade = not self._was_made()
        end = _exit(self._process.wait(), tail, self._evidence)
        return msgspec.structs.replace(end, unmade=self._unmade)

    async def close(self) -> None:
        """Kill what is left, wait, and give back what the backend held. May be repeated."""
        self.kill()
        await self.wait()
        if not self._released:
            self._released = True
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._release()

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._on_stderr()
        self._ended.set()

    def _on_stderr(self) -> None:
        try:
            data = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr)
            return
        self._tail += data
        del self._tail[:-STDERR_TAIL_BYTES]


def _exit(code: int, tail: str, evidence: Evidence) -> Exit:
    if code < 0:
        return Exit(signal=-code, stderr_tail=tail, evidence=evidence)
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + _SIGNALS:
        return Exit(signal=code - _SIGNAL_BASE, stderr_tail=tail, evidence=evidence)
    return Exit(code=code, stderr_tail=tail, evidence=evidence)


async def fork(
    argv: tuple[str, ...],
    env: dict[str, str],
    birth: Callable[[], None] | Birth,
    fds: tuple[int, ...],
    cwd: str | None = None,
    *,
    new_pids: bool = False,
    launcher: Launcher | None = None,
) -> tuple[Process, int]:
    """Start `argv` as a session of its own; return it and the reading end of its stderr.

    Args:
        birth: prepares the forked child.
        fds: what it keeps open; the numbers after `birth`.
        new_pids: it is the first process of a pid namespace, with which everything below it ends.
        launcher: starts it, where it can, for a worker is slow to fork.

    Cancelling waits for the fork and then kills what it made, so that nothing is left behind.
    Raises: UnavailableError if it can't be started.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(writing, True)
    if launcher is not None and isinstance(birth, Birth) and not new_pids and launcher.takes(fds):
        try:
            child = await launcher.start(argv, env, birth, fds, writing, cwd)
        except LauncherGoneError:
            pass
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        else:
            os.close(writing)
            return child, reading

    def start() -> subprocess.Popen[bytes]:
        with _new_pids() if new_pids else contextlib.nullcontext():
            return popen()

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            pass_fds=fds,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=birth.born if isinstance(birth, Birth) else birth,  # noqa: PLW1509 - system calls only; see child.py
        )

    started = asyncio.wrap_future(_FORKING.submit(start))
    try:
        process = await asyncio.shield(started)
    except asyncio.CancelledError:
        await _undo(started)
        os.close(reading)
        raise
    except (OSError, subprocess.SubprocessError) as error:
        said = _said(reading)
        os.close(reading)
        raise UnavailableError(
            "platform.unavailable", f"the container can't be started: {said or error}"
        ) from error
    finally:
        if started.done():
            os.close(writing)
    return process, reading


@contextlib.contextmanager
def _new_pids() -> Iterator[None]:
    """The next child of this thread is the first process of a new pid namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWPID) != 0:
            raise OSError(ctypes.get_errno(), "a pid namespace can't be made")
        try:
            yield
        finally:
            if libc.setns(own, _CLONE_NEWPID) != 0:
                raise OSError(ctypes.get_errno(), "the thread can't leave a pid namespace")
    finally:
        os.close(own)


async def _undo(started: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    """Kill a process whose starter was cancelled."""
    await settle(started)
    try:
        process = started.result()
    except (OSError, subprocess.SubprocessError):
        return
    process.kill()
    process.wait()


def _said(stderr: int) -> str:
    """Return what the child wrote before it failed."""
    try:
        return os.read(stderr, STDERR_TAIL_BYTES).decode(errors="replace").strip()
    except BlockingIOError:
        return ""
