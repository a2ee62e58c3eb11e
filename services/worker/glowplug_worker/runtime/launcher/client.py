"""The worker's side of the launcher: one packet there and one back per process, answered in order."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
from glowplug_contracts.errors import UnavailableError

from glowplug_worker.runtime.child import Birth
from glowplug_worker.runtime.launcher import clone
from glowplug_worker.runtime.packets import receive
from glowplug_worker.runtime.settle import settle

log = structlog.get_logger()

# Starting takes a millisecond; this is for a helper that does not answer at all.
ANSWER_S: Final = 20.0
ANSWER_BYTES_MAX: Final = 1 << 12
WHY_BYTES_MAX: Final = 4096
FDS_MAX: Final = 253  # as many as one packet carries
_OWN_FDS: Final = 5  # the order, two pipes, a disk, a network


class LauncherGoneError(Exception):
    """It does nothing any more: processes are started without it."""


class Child:
    """A process that the launcher made: our own child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def kill(self) -> None:
        """SIGKILL it. Not after `wait`."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Reap it; return its exit code, or minus the signal's number. Blocks."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class _Answer(msgspec.Struct):
    pid: int = 0
    error: str = ""


class Launcher:
    """See the module. Opened by `open_launcher`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._waiting: deque[asyncio.Future[Child]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel.fileno(), self._on_answer)
        self._gone = False

    def takes(self, fds: Sequence[int]) -> bool:
        """Return whether it can start something with these descriptors."""
        return not self._gone and len(fds) <= FDS_MAX - _OWN_FDS

    async def start(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        birth: Birth,
        fds: Sequence[int],
        output: int,
        cwd: str | None = None,
    ) -> Child:
        """Start `argv` as a session of its own, prepared by `birth`, with `fds` under their numbers.

        Cancelling leaves nothing behind. Raises: UnavailableError if it can't be started;
        LauncherGoneError if nobody tried.
        """
        held = [fd for fd in (birth.disk, birth.netns) if fd is not None and fd >= 0]
        why, saying = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                order = {
                    "argv": argv,
                    "env": env,
                    "cwd": cwd or "",
                    "numbers": [*fds, *held],
                    "inherited": [*fds],
                    "birth": _plain(birth),
                }
                with _in_memory(msgspec.json.encode(order)) as ordered:
                    asked = self._ask((ordered, output, saying, *fds, *held))
            finally:
                os.close(saying)
            try:
                async with asyncio.timeout(ANSWER_S):
                    child = await asyncio.shield(asked)
                    problem = await self._read(why)
            except TimeoutError:
                self._process.kill()
                self._end()
                await _undo(asked)
                raise UnavailableError(
                    "platform.unavailable", "the launcher does not answer"
                ) from None
            except asyncio.CancelledError:
                await _undo(asked)
                raise
        finally:
            os.close(why)
        if problem:
            child.wait()
            raise UnavailableError(
                "platform.unavailable", f"the container can't be started: {problem}"
            )
        return child

    def _ask(self, fds: Sequence[int]) -> asyncio.Future[Child]:
        if self._gone:
            raise LauncherGoneError
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        try:
            self._channel.sendmsg([b"start"], [rights], socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise LauncherGoneError from None  # it is far behind: start this one without it
        except OSError:
            self._end()
            raise LauncherGoneError from None
        asked: asyncio.Future[Child] = self._loop.create_future()
        self._waiting.append(asked)
        return asked

    def _on_answer(self) -> None:
        try:
            data, fds = receive(self._channel, ANSWER_BYTES_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        for fd in fds:
            os.close(fd)
        if not data or not self._waiting:
            self._end()
            return
        answer = msgspec.json.decode(data, type=_Answer)
        asked = self._waiting.popleft()
        if answer.pid:
            asked.set_result(Child(answer.pid))
        else:
            asked.set_exception(
                UnavailableError(
                    "platform.unavailable", f"the container can't be started: {answer.error}"
                )
            )

    async def _read(self, why: int) -> str:
        """Return what the child says until it executes, which is nothing."""
        readable = asyncio.Event()
        self._loop.add_reader(why, readable.set)
        said = b""
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    data = os.read(why, WHY_BYTES_MAX)
                except BlockingIOError:
                    continue
                if not data:
                    return said.decode(errors="replace")
                said = (said + data)[:WHY_BYTES_MAX]
        finally:
            self._loop.remove_reader(why)

    def _end(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._loop.remove_reader(self._channel.fileno())
        while self._waiting:
            self._waiting.popleft().set_exception(LauncherGoneError())
        log.warning("launcher.gone")

    def close(self) -> None:
        """End the helper; what it has started lives on."""
        if not self._gone:
            self._gone = True
            self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._process.kill()
        self._process.wait()


def open_launcher() -> Launcher | None:
    """Start the helper, in the main thread: when that ends, its containers die. None where there can be none."""
    if platform.machine() not in clone.CALLS or not sys.platform.startswith("linux"):
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    executable = getattr(sys, "_base_executable", sys.executable)
    main = Path(__file__).with_name("__main__.py")
    try:
        with theirs:
            process = subprocess.Popen(
                [executable, "-I", "-S", str(main), "--fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        log.warning("launcher.failed", error=str(error))
        return None
    ours.setblocking(False)  # noqa: FBT003 - positional only
    return Launcher(process, ours)


def _plain(birth: Birth) -> dict[str, object]:
    staged = [(str(each.source), each.name) for each in birth.staged]
    return {**birth._asdict(), "staged": staged}


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("order")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


async def _undo(asked: asyncio.Future[Child]) -> None:
    """Kill a process whose starter was cancelled."""
    await settle(asked)
    with contextlib.suppress(UnavailableError, LauncherGoneError):
        child = asked.result()
        child.kill()
        child.wait()
