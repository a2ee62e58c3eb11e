"""One template: a sandboxed process with its imports done, and the forking of containers from it.

Its own start is an ordinary one, by the backend, so it can do no more than any container. Safe to fork from
is what the kernel says it is, not what the process says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from glowplug_contracts.errors import UnavailableError

from glowplug_worker.frames import FromRunner, Init, Ready, StartFailed
from glowplug_worker.launch import Brought
from glowplug_worker.ports import Bind, RunningContainer, StartPlan
from glowplug_worker.processes import start_ticks, tree_pss_bytes
from glowplug_worker.runners import RunnerLink, open_link, send_blobs
from glowplug_worker.runtime.cgroups import Cgroups
from glowplug_worker.runtime.examine import examine, processor_ticks
from glowplug_worker.runtime.forked import Forked
from glowplug_worker.runtime.nursery.client import Nursery, Order
from glowplug_worker.safety import judge

# Importing again what a container has just imported; a model's weights may take their time.
MAKE_S_MAX: Final = 300.0
_CREDENTIALS: Final = struct.Struct("=3i")
_WORD_BYTES_MAX: Final = 64
# Between forks it sleeps; beyond this it does something else, and is not what was examined.
BUSY_TICKS_MAX: Final = 20


class Template:
    """See the module; made by `make`."""

    def __init__(
        self, running: RunningContainer, control: socket.socket, link: RunnerLink, pid: int
    ) -> None:
        self.running = running
        self.pid = pid
        self.started = start_ticks(pid)
        self.ticks = processor_ticks(pid)
        self._control = control
        self._link = link

    async def fork(
        self,
        nursery: Nursery,
        cgroups: Cgroups,
        plan: StartPlan,
        binds: tuple[Bind, ...],
        ended: Callable[[], None],
    ) -> RunningContainer:
        """Fork a container that has the one descriptor in `plan.fds`; `ended` is called after its end.

        Raises: UnavailableError.
        """
        with contextlib.ExitStack() as undo:
            try:
                group = cgroups.make(plan.container_id, plan.limits)
            except OSError as error:
                raise UnavailableError(
                    "platform.unavailable", f"control groups can't be made: {error}"
                ) from error
            undo.callback(cgroups.give_back, group)
            stderr, stderr_theirs = _pipe(undo)
            exit_pipe, exit_theirs = _pipe(undo)
            order = Order(
                template=self.pid,
                started=self.started,
                hostname=plan.hostname,
                cgroups=group.entries,
                binds=tuple((str(each.source), each.target, each.writable) for each in binds),
                own_network=plan.network != "shared",
            )
            fds = (self._control.fileno(), plan.fds[0], stderr_theirs, exit_theirs)
            newborn = await nursery.fork(order, fds)
            os.close(stderr_theirs)
            os.close(exit_theirs)
            undo.pop_all()

        def release() -> None:
            cgroups.give_back(group)
            ended()

        return Forked(newborn, stderr, exit_pipe, group, release)

    def memory_bytes(self) -> int:
        """Return what it uses of its own."""
        return tree_pss_bytes(self.running.pid)

    def busy(self) -> bool:
        """Return whether it has done more since the last look than a sleeping process does."""
        before, self.ticks = self.ticks, processor_ticks(self.pid)
        return self.ticks - before > BUSY_TICKS_MAX

    async def close(self) -> None:
        """End it, and with it whatever was forked from it."""
        self._control.close()
        self._link.close()
        await self.running.close()


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    undo.callback(_close, reading)
    undo.callback(_close, writing)
    return reading, writing


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


class UnsafeError(Exception):
    """It can't be forked from; the text is for the user."""


async def make(
    begin: Callable[[tuple[int, ...]], Awaitable[RunningContainer]],
    init: Init,
    brought: Brought,
) -> Template:
    """Start a template and see that it is one. Raises: UnsafeError, UnavailableError.

    `begin` starts the process with two descriptors: the runner's socket and the control socket.
    """
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[None] = loop.create_future()

    def on_frame(_process: int, frame: FromRunner, _body: bytes) -> None:
        if heard.done():
            return
        if isinstance(frame, Ready):
            heard.set_result(None)
        elif isinstance(frame, StartFailed):
            heard.set_exception(UnsafeError(f"importing it alone failed: {frame.error.message}"))

    def on_gone(_process: int, why: str) -> None:
        if not heard.done():
            heard.set_exception(UnsafeError(f"it ended while importing {why}".rstrip()))

    async with contextlib.AsyncExitStack() as undo:
        ours, theirs = socket.socketpair()
        control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        undo.callback(control.close)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        control.setblocking(False)  # noqa: FBT003 - positional only
        fds = (theirs.fileno(), control_theirs.fileno())
        with theirs, control_theirs:
            running = await begin(fds)
        undo.push_async_callback(running.close)
        link = await open_link(0, ours, on_frame, on_gone)
        undo.callback(link.close)
        link.send(init)
        if init.mode == "function":
            send_blobs(link, brought)
        try:
            async with asyncio.timeout(MAKE_S_MAX):
                await heard
                pid = await _who_speaks(control)
        except TimeoutError:
            raise UnsafeError(f"importing it took longer than {MAKE_S_MAX:.0f} s") from None
        reason = await asyncio.to_thread(_why_unsafe, pid, fds)
        if reason:
            raise UnsafeError(reason)
        template = Template(running, control, link, pid)
        undo.pop_all()
    return template


async def _who_speaks(control: socket.socket) -> int:
    """Return the host's number of the process that says it is ready: the kernel's word."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(control.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(control.fileno())
    _, ancillary, _, _ = control.recvmsg(_WORD_BYTES_MAX, socket.CMSG_SPACE(_CREDENTIALS.size))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    raise UnsafeError("it ended while importing")


def _why_unsafe(pid: int, fds: tuple[int, ...]) -> str:
    try:
        return judge(examine(pid, (0, 1, 2, *fds)))
    except OSError as error:
        return f"it can't be examined: {error.strerror}"
