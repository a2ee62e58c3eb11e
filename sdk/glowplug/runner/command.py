"""A command in a session: its own process group, output as it comes, one `ended` at its end."""

from __future__ import annotations

import os
import signal
import subprocess

from glowplug.runner import failures
from glowplug.runner.code_context import EXIT_CANCELLED, EXIT_TIMED_OUT, stop_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from glowplug.runner.channel import Channel
    from glowplug.runner.frames import Header
    from glowplug.runner.session import Loop, Place

READ_BYTES = 1 << 16
# What a pipe can hold; a background child that never stops writing must not keep us.
PIPE_READS = 16
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126


class Command:
    """One command; enters itself in `commands` while it runs."""

    def __init__(
        self, loop: Loop, worker: Channel, header: Header, commands: dict[str, Place]
    ) -> None:
        self._loop = loop
        self._worker = worker
        self._header = header
        self._exec_id: str = header["exec_id"]
        self._commands = commands
        self._process: Any = None
        self._pidfd = -1
        self._pipes: dict[int, str] = {}
        self._timer: int | None = None
        self._stopped = ""

    def start(self) -> None:
        """Start the process, or report at once why it can't be."""
        header = self._header
        try:
            self._process = subprocess.Popen(
                list(header.get("argv") or ()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=header.get("cwd") or None,
                env={**os.environ, **(header.get("env") or {})},
                start_new_session=True,
            )
        except (OSError, ValueError, IndexError) as error:
            missing = isinstance(error, FileNotFoundError)
            code = EXIT_NOT_FOUND if missing else EXIT_NOT_EXECUTABLE
            self._report(
                code, failures.plain_error("function.failed", type(error).__name__, str(error))
            )
            return
        self._commands[self._exec_id] = self
        for pipe, name in ((self._process.stdout, "stdout"), (self._process.stderr, "stderr")):
            fd = pipe.fileno()
            os.set_blocking(fd, False)
            self._pipes[fd] = name
            self._loop.watch(fd, self._reader(fd))
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.watch(self._pidfd, self._on_exit)
        if header.get("timeout_s", 0) > 0:
            self._timer = self._loop.after(header["timeout_s"], lambda: self._stop("timeout"))

    def busy(self) -> bool:
        """Return that it runs; it leaves `commands` when it does not."""
        return True

    def kill_exec(self, exec_id: str) -> bool:
        """Kill the process group; return whether it was this one."""
        if exec_id != self._exec_id:
            return False
        self._stop("killed")
        return True

    def close(self) -> None:
        """Kill the process group at once."""
        self._kill_group()
        self._process.wait()

    def _stop(self, why: str) -> None:
        self._stopped = self._stopped or why
        self._kill_group()

    def _kill_group(self) -> None:
        # Not reaped yet, so the number is still this group's.
        os.killpg(self._process.pid, signal.SIGKILL)

    def _reader(self, fd: int) -> Callable[[], object]:
        return lambda: self._read(fd)

    def _read(self, fd: int) -> bool:
        """Pass on what is there; return whether there was anything."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.forget(fd)
            del self._pipes[fd]
            return False
        event = {"type": "exec_event", "exec_id": self._exec_id, "kind": self._pipes[fd]}
        self._worker.send(event, data)
        return True

    def _on_exit(self) -> None:
        """Report the end. What a background child still holds open is not waited for."""
        for fd in list(self._pipes):
            for _ in range(PIPE_READS):
                if not self._read(fd):
                    break
        code = self._process.wait()
        for fd in list(self._pipes):
            self._loop.forget(fd)
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._process.stdout.close()
        self._process.stderr.close()
        self._loop.cancel(self._timer)
        del self._commands[self._exec_id]
        if self._stopped:
            exit_code = EXIT_TIMED_OUT if self._stopped == "timeout" else EXIT_CANCELLED
            self._report(exit_code, stop_error(self._stopped, self._header, ""))
        else:
            self._report(code if code >= 0 else 128 - code, None)

    def _report(self, exit_code: int, error: Header | None) -> None:
        event = {"type": "exec_event", "exec_id": self._exec_id, "kind": "ended"}
        self._worker.send({**event, "exit_code": exit_code, "error": error})
