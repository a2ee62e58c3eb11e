"""The worker's side of the nursery: one helper process, one packet there and one back per newborn."""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.errors import UnavailableError

from glowplug_worker.runtime.nursery import tracer
from glowplug_worker.runtime.packets import receive
from glowplug_worker.runtime.settle import settle

# The helper gives a fork up after tracer's own bound; this is for a helper that does not answer at all.
ANSWER_S: Final = 10.0
READY_S: Final = 20.0
ANSWER_BYTES_MAX: Final = 1 << 16
FDS_MAX: Final = 2


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to fork from, and what the newborn is given.

    Attributes:
        template: the process, by the host's number; `started` is when it began, in clock ticks.
        cgroups: files that the newborn's number is written to.
        own_network: a new one, with nothing in it but itself; else the template's.
        binds: (source on the host, target inside, writable): mounted over what the template shows there.
    """

    template: int
    started: int
    hostname: str
    cgroups: tuple[str, ...] = ()
    binds: tuple[tuple[str, str, bool], ...] = ()
    own_network: bool = False


class Newborn(msgspec.Struct, frozen=True):
    """A forked container's first process. The caller closes `pidfd`."""

    pid: int
    pidfd: int


class _Answer(msgspec.Struct):
    pid: int = 0
    error: str = ""
    ready: bool = False


class Nursery:
    """See the module. Opened by `open_nursery`; forks one at a time.

    Attributes:
        home: the namespaces that templates are started in, where the worker is an ordinary user's.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._turn = asyncio.Lock()
        self.home: tuple[int, int] | None = None

    async def fork(self, order: Order, fds: Sequence[int]) -> Newborn:
        """Fork a container; `fds`: control socket, runner's socket, stderr, exit pipe.

        Raises: UnavailableError when it can't be had; nothing is left of it then.
        """
        async with self._turn:
            # Shielded: an answer that nobody reads would be the next caller's.
            asked = asyncio.ensure_future(self._ask(order, tuple(fds)))
            try:
                return await asyncio.shield(asked)
            except asyncio.CancelledError:
                await settle(asked)
                with contextlib.suppress(UnavailableError):
                    newborn = asked.result()
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(newborn.pidfd, signal.SIGKILL)
                    os.close(newborn.pidfd)
                raise

    async def _ask(self, order: Order, fds: tuple[int, ...]) -> Newborn:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        try:
            self._channel.sendmsg([msgspec.json.encode(order)], [rights])
            async with asyncio.timeout(ANSWER_S):
                answer, given = await self._receive()
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            self._process.kill()  # it is out of step; without it every start is a plain one
            raise UnavailableError("platform.unavailable", f"the nursery: {error!r}") from error
        if answer.error or not given:
            raise UnavailableError(
                "platform.unavailable", f"no container could be forked: {answer.error or 'gone'}"
            )
        return Newborn(answer.pid, given[0])

    async def ready(self) -> None:
        """Wait until the helper serves. Raises: UnavailableError."""
        try:
            async with asyncio.timeout(READY_S):
                answer, given = await self._receive()
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            raise UnavailableError("platform.unavailable", f"the nursery: {error!r}") from error
        if not answer.ready:
            raise UnavailableError("platform.unavailable", f"the nursery: {answer.error}")
        if given:
            user, mount = given
            self.home = user, mount

    async def _receive(self) -> tuple[_Answer, list[int]]:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._channel.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._channel.fileno())
        data, fds = receive(self._channel, ANSWER_BYTES_MAX, FDS_MAX)
        if not data:
            raise OSError("it has ended")
        return msgspec.json.decode(data, type=_Answer), fds

    def close(self) -> None:
        """End the helper."""
        for fd in self.home or ():
            os.close(fd)
        self.home = None
        self._channel.close()
        self._process.kill()
        self._process.wait()


async def open_nursery() -> Nursery:
    """Start the helper. Raises: UnavailableError where containers can't be forked, saying why."""
    if platform.machine() != tracer.MACHINE:
        raise UnavailableError(
            "platform.unavailable", f"nobody has taught it {platform.machine()} yet"
        )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    main = Path(__file__).with_name("__main__.py")
    try:
        with theirs:
            # The base interpreter, without site: 9 MB, and a fork of it is cheap.
            process = _start(main, theirs.fileno())
    except OSError as error:
        ours.close()
        raise UnavailableError("platform.unavailable", f"the nursery: {error}") from error
    nursery = Nursery(process, ours)
    try:
        await nursery.ready()
    except BaseException:
        nursery.close()
        raise
    return nursery


def _start(main: Path, fd: int) -> subprocess.Popen[bytes]:
    # In the main thread: the helper asks for a signal when the thread that made it ends.
    executable = getattr(sys, "_base_executable", sys.executable)
    return subprocess.Popen(
        [executable, "-I", "-S", str(main), "--fd", str(fd)],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )
