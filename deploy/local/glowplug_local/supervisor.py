"""Child processes: started in sessions of their own, restarted when they die, stopped in order.

A terminal's Ctrl-C reaches only us (children have their own sessions), so that services drain while the
broker still runs; and each child has a parent-death signal, so that a kill -9 of us leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from glowplug_local.backoff import choose_pause

STOP_S = 12.0  # longer than the gateway's drain_s and the worker's stop_grace_s
PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None, use_errno=True)


class Child:
    """One command, kept running."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        on_restart: Callable[[str, str, float], None],
    ) -> None:
        self.name = name
        self._argv = list(argv)
        self._env = dict(env)
        self._log = log
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Return the pid while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def keep_running(self) -> None:
        """Start it, and again whenever it ends, until `stop`."""
        deaths = 0
        while not self._stopping:
            started = time.monotonic()
            code = await (await self._start()).wait()
            if self._ending():
                return
            pause_s, deaths = choose_pause(deaths, time.monotonic() - started)
            self.restarts += 1
            self._on_restart(self.name, _words(code), pause_s)
            await asyncio.sleep(pause_s)

    async def _start(self) -> asyncio.subprocess.Process:
        parent = os.getpid()
        fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=fd,
                stderr=fd,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            )
        finally:
            os.close(fd)
        return self._process

    def _ending(self) -> bool:
        return self._stopping

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def restart(self, stop_s: float = STOP_S) -> None:
        """Have it end; `keep_running` starts it again."""
        process = self._process
        if process is not None and process.returncode is None:
            await self._end(process, stop_s)

    async def stop(self, stop_s: float = STOP_S) -> None:
        """Ask it to end; kill it after `stop_s`."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            await self._end(process, stop_s)

    async def _end(self, process: asyncio.subprocess.Process, stop_s: float) -> None:
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), stop_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await process.wait()

    def tail(self, lines: int = 5) -> str:
        """Return the last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def die_with(parent: int) -> None:
    """In a child before exec: be killed when the parent dies, also if it has died already."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name
