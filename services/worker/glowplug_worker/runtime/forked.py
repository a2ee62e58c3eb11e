"""A container that was forked from a template (`ports.RunningContainer`): watched by its pidfd.

Its first process is a child of the template, not ours, so its exit code comes through a pipe that the first
process writes to when the runner has ended. A container that is killed as a whole says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final

from glowplug_worker.ports import Evidence, Exit
from glowplug_worker.runtime.cgroups import Cgroup
from glowplug_worker.runtime.nursery.client import Newborn
from glowplug_worker.runtime.polling import readable
from glowplug_worker.runtime.tree import STDERR_TAIL_BYTES

_SWEEP_S: Final = 0.01
_CODE_BYTES_MAX: Final = 16


class Forked:
    """See the module. Owns the descriptors that it is given; `release` is called once, after the end."""

    def __init__(
        self,
        newborn: Newborn,
        stderr: int,
        exit_pipe: int,
        group: Cgroup,
        release: Callable[[], None],
    ) -> None:
        self._pid = newborn.pid
        self._pidfd = newborn.pidfd
        self._stderr = stderr
        self._exit_pipe = exit_pipe
        self._group = group
        self._release = release
        self._tail = bytearray()
        self._evidence: Evidence | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        for fd in (stderr, exit_pipe):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(stderr, self._on_stderr)

    @property
    def pid(self) -> int:
        """Return the host's number of the container's first process."""
        return self._pid

    def evidence(self) -> Evidence:
        """Return what the kernel has counted so far."""
        return self._evidence if self._evidence is not None else self._group.evidence()

    def kill(self) -> None:
        """SIGKILL the first process, and with it its pid namespace. May be repeated."""
        if not self._closed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._group.kill()

    async def wait(self) -> Exit:
        """Return when nothing of the container lives. May be repeated."""
        await self._ended.wait()
        while not self._closed and not self._group.kill():  # noqa: ASYNC110 - only polling tells
            await asyncio.sleep(_SWEEP_S)
        self._evidence = self.evidence()
        tail = bytes(self._tail).decode(errors="replace")
        code = self._code()
        if code < 0:
            return Exit(signal=-code, stderr_tail=tail, evidence=self._evidence)
        return Exit(code=code, stderr_tail=tail, evidence=self._evidence)

    async def close(self) -> None:
        """Kill what is left, wait, and give back what it held. May be repeated."""
        self.kill()
        await self.wait()
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._stderr)
            for fd in (self._pidfd, self._stderr, self._exit_pipe):
                os.close(fd)
            self._release()

    def _code(self) -> int:
        """Return what the first process said; it is the container's own word about itself."""
        if not hasattr(self, "_said"):
            try:
                self._said = int(os.read(self._exit_pipe, _CODE_BYTES_MAX) or -signal.SIGKILL)
            except (OSError, ValueError):
                self._said = -int(signal.SIGKILL)
        return self._said if -signal.NSIG < self._said < 256 else -int(signal.SIGKILL)  # noqa: PLR2004

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._on_stderr()
        self._ended.set()

    def _on_stderr(self) -> None:
        while readable(self._stderr):
            data = os.read(self._stderr, 1 << 16)
            if not data:
                self._loop.remove_reader(self._stderr)
                return
            self._tail += data
            del self._tail[:-STDERR_TAIL_BYTES]
            if not self._ended.is_set():
                return
