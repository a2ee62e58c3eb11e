"""Session mode: code in named contexts whose variables persist, and commands, driven by the worker.

One thread and one poll loop. Each context is a child process (`console.py`) on a socketpair of its own,
so that code which crashes or can't be interrupted costs its context and nothing else; frames of a
context are passed on as they are. Every exec ends with exactly one `ended`.
"""

from __future__ import annotations

import select
import time

from glowplug.runner import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from glowplug.runner.channel import Channel
    from glowplug.runner.code_context import CodeContext
    from glowplug.runner.frames import Header

    class Place(Protocol):
        """Where execs run: a context, or one command."""

        def kill_exec(self, exec_id: str) -> bool:
            """End an exec of this place; return whether it was here."""

        def busy(self) -> bool:
            """Return whether something runs or waits here."""

        def close(self) -> None:
            """Kill at once, without a word."""


class Loop:
    """Descriptors and moments that the session waits for."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], object]] = {}
        self._timers: dict[int, tuple[float, Callable[[], object]]] = {}
        self._next = 0

    def watch(self, fd: int, ready: Callable[[], object]) -> None:
        """Call `ready` whenever the descriptor has something to read, or ended."""
        self._readers[fd] = ready
        self._poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Stop watching; the descriptor is about to be closed."""
        del self._readers[fd]
        self._poll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], object]) -> int:
        """Call once after some seconds; return a number for `cancel`."""
        self._next += 1
        self._timers[self._next] = (time.monotonic() + seconds, call)
        return self._next

    def cancel(self, timer: int | None) -> None:
        """Forget a timer; one that has fired already is no matter."""
        if timer is not None:
            self._timers.pop(timer, None)

    def run_once(self) -> None:
        """Wait for the next thing and serve it."""
        now = time.monotonic()
        due = min((at for at, _ in self._timers.values()), default=None)
        wait_ms = None if due is None else max(0, int((due - now) * 1000) + 1)
        for fd, _ in self._poll.poll(wait_ms):
            ready = self._readers.get(fd)
            if ready is not None:
                ready()
        now = time.monotonic()
        for number, (at, call) in list(self._timers.items()):
            if at <= now and self._timers.pop(number, None) is not None:
                call()

    def fds(self) -> list[int]:
        """Return every watched descriptor, for a forked child to close."""
        return list(self._readers)


def serve_session(channel: Channel, init: Header) -> int:
    """Serve execs until the worker says stop; return the exit code."""
    loading.prepare_paths(
        init.get("source", ""), init.get("layer", ""), site=bool(init.get("site"))
    )
    session = Session(channel)
    channel.send({"type": "ready", "phases": {}})
    return session.run()


class Session:
    """Takes the worker's frames, and knows every context and command."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = Loop()
        self._loop.watch(channel.fileno(), self._on_frames)
        self._contexts: dict[str, CodeContext] = {}
        self._commands: dict[str, Place] = {}
        self._pieces: dict[str, list[bytes]] = {}
        self._ended = False
        self._stopping = False

    def run(self) -> int:
        """Serve until the end, and leave no process."""
        while not self._ended and not (self._stopping and not self._busy()):
            self._loop.run_once()
        for place in (*self._contexts.values(), *self._commands.values()):
            place.close()
        if self._stopping:
            self._channel.send({"type": "bye"})
        return 0

    def _busy(self) -> bool:
        return any(place.busy() for place in (*self._contexts.values(), *self._commands.values()))

    def _on_frames(self) -> None:
        received = self._channel.receive_available()
        if received is None:
            self._ended = True
            return
        for header, body in received:
            self._take(header, body)

    def _take(self, header: Header, body: bytes) -> None:
        kind = header["type"]
        if kind == "exec":
            self._take_exec(header, body)
        elif kind == "kill_exec":
            for place in (*self._contexts.values(), *self._commands.values()):
                if place.kill_exec(header["exec_id"]):
                    break
        elif kind == "stop":
            self._stopping = True
            self._loop.after(float(header.get("grace_s", 0)), self._end)
        else:
            raise ValueError(f"unexpected frame {kind!r}")

    def _take_exec(self, header: Header, body: bytes) -> None:
        exec_id = header["exec_id"]
        if header.get("more"):
            self._pieces.setdefault(exec_id, []).append(body)
            return
        code = b"".join([*self._pieces.pop(exec_id, []), body])
        if header["mode"] == "command":
            from glowplug.runner.command import Command  # noqa: PLC0415 - imports subprocess

            command = Command(self._loop, self._channel, header, self._commands)
            command.start()
        else:
            self._context(header.get("context") or "default").run(header, code)

    def _context(self, name: str) -> CodeContext:
        from glowplug.runner.code_context import CodeContext  # noqa: PLC0415 - only if there is code

        context = self._contexts.get(name)
        if context is None:
            context = self._contexts[name] = CodeContext(self._loop, self._channel, name)
        return context

    def _end(self) -> None:
        self._ended = True
