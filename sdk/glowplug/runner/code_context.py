"""A context seen from the session: a child process, a queue of code, and how each piece ends.

A time-out or kill interrupts first (the code's `finally` runs, variables survive); what has not ended
`KILL_AFTER_S` later is killed, and the context begins anew with the next piece of code.
"""

from __future__ import annotations

import os
from collections import deque

from glowplug.runner import failures, frames
from glowplug.runner.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from glowplug.runner.frames import Header
    from glowplug.runner.session import Loop

KILL_AFTER_S = 2.0
SIGINT = 2
SIGKILL = 9
EXIT_TIMED_OUT = 124
EXIT_CANCELLED = 130


class CodeContext:
    """One named context."""

    def __init__(self, loop: Loop, worker: Channel, name: str) -> None:
        self._loop = loop
        self._worker = worker
        self._name = name
        self._waiting: deque[tuple[Header, bytes]] = deque()
        self._running: Header | None = None
        self._child: Channel | None = None
        self._pid = 0
        self._timer: int | None = None
        # Why the running code is being stopped: "", "timeout" or "killed".
        self._stopped = ""

    def run(self, header: Header, code: bytes) -> None:
        """Queue a piece of code; pieces run one after the other."""
        self._waiting.append((header, code))
        self._next()

    def busy(self) -> bool:
        """Return whether code runs or waits."""
        return self._running is not None or bool(self._waiting)

    def kill_exec(self, exec_id: str) -> bool:
        """End a piece of code; return whether it was here."""
        if self._running is not None and self._running["exec_id"] == exec_id:
            self._stop("killed")
            return True
        for waiting in self._waiting:
            if waiting[0]["exec_id"] == exec_id:
                self._waiting.remove(waiting)
                self._report_end(waiting[0], EXIT_CANCELLED, stop_error("killed", waiting[0], ""))
                return True
        return False

    def close(self) -> None:
        """Kill the child at once."""
        if self._child is not None:
            os.kill(self._pid, SIGKILL)
            self._reap()

    def _next(self) -> None:
        if self._running is not None or not self._waiting:
            return
        header, code = self._waiting.popleft()
        self._running = header
        self._stopped = ""
        if self._child is None:
            self._fork()
        if header.get("timeout_s", 0) > 0:
            self._timer = self._loop.after(header["timeout_s"], lambda: self._stop("timeout"))
        self._child.send(header, code)  # type: ignore[union-attr]

    def _fork(self) -> None:
        import socket  # noqa: PLC0415 - only in sessions

        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become_console(theirs.detach(), ours)
        theirs.close()
        self._pid = pid
        self._child = Channel(ours.detach())
        self._loop.watch(self._child.fileno(), self._on_frames)

    def _become_console(self, fd: int, other: object) -> None:
        code = 70
        try:
            other.close()  # type: ignore[attr-defined]
            for watched in self._loop.fds():
                os.close(watched)
            from glowplug.runner.console import serve_console  # noqa: PLC0415 - in the child only

            code = serve_console(Channel(fd), self._name)
        finally:
            os._exit(code)

    def _on_frames(self) -> None:
        assert self._child is not None  # noqa: S101 - it is watched
        try:
            received = self._child.receive_available()
        except frames.FrameError:
            os.kill(self._pid, SIGKILL)
            received = None
        if received is None:
            self._on_death()
            return
        for header, body in received:
            if header["type"] == "exec_event" and header.get("kind") == "ended":
                self._on_ended(header)
            else:
                self._worker.send(header, body)

    def _on_ended(self, header: Header) -> None:
        running = self._running
        if running is None or running["exec_id"] != header.get("exec_id"):
            return
        error = header.get("error")
        if self._stopped:
            traceback = error["traceback"] if error else ""
            code = EXIT_TIMED_OUT if self._stopped == "timeout" else EXIT_CANCELLED
            self._finish(code, stop_error(self._stopped, running, traceback))
        else:
            self._finish(header["exit_code"], error)

    def _on_death(self) -> None:
        status = self._reap()
        if self._running is None:
            return
        code = os.waitstatus_to_exitcode(status)
        if self._stopped:
            error = stop_error(self._stopped, self._running, "")
            error["message"] += "; it could not be interrupted, so the context's variables are lost"
        else:
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            details = {"exit_code": code} if code >= 0 else {"signal": -code}
            error = failures.plain_error(
                "function.crashed",
                "ContainerCrashedError",
                f"the code's process ended with {how}; the context's variables are lost",
                **details,
            )
        self._finish(code if code >= 0 else 128 - code, error)

    def _reap(self) -> int:
        assert self._child is not None  # noqa: S101 - only a live child is reaped
        self._loop.forget(self._child.fileno())
        self._child.close()
        self._child = None
        return os.waitpid(self._pid, 0)[1]

    def _finish(self, exit_code: int, error: Header | None) -> None:
        running = self._running
        assert running is not None  # noqa: S101 - called for running code only
        self._loop.cancel(self._timer)
        self._timer = None
        self._running = None
        self._report_end(running, exit_code, error)
        self._next()

    def _report_end(self, header: Header, exit_code: int, error: Header | None) -> None:
        event = {"type": "exec_event", "exec_id": header["exec_id"], "kind": "ended"}
        self._worker.send({**event, "exit_code": exit_code, "error": error})

    def _stop(self, why: str) -> None:
        if self._stopped:
            return
        self._stopped = why
        os.kill(self._pid, SIGINT)
        self._loop.cancel(self._timer)
        self._timer = self._loop.after(KILL_AFTER_S, lambda: os.kill(self._pid, SIGKILL))


def stop_error(why: str, header: Header, traceback: str) -> Header:
    """Return the error of an exec that was stopped ("timeout" or "killed")."""
    if why == "timeout":
        limit = header["timeout_s"]
        error = failures.plain_error(
            "function.timeout", "TimeoutError", f"it ran longer than {limit:g} s", limit_s=limit
        )
    else:
        error = failures.plain_error("invocation.cancelled", "CancelledError", "it was killed")
    error["traceback"] = traceback
    return error
