"""What the user's code prints, as frames, in the order it was written.

Descriptors 1 and 2 become pipes that a thread reads (C code, child processes); `sys.stdout` and
`sys.stderr` skip the pipes, so each write knows the invocation it belongs to. Before lines of Python's
go out, what lies in the pipes goes first: one order for both. Writing never waits longer than
`WAIT_S` for a worker that does not read; after that lines are dropped and counted.
"""

from __future__ import annotations

import _thread
import io
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

PIECE_BYTES = 1 << 16
WAIT_S = 0.25
STREAMS = {1: "stdout", 2: "stderr"}


class Capture:
    """Owns descriptors 1 and 2 of this process, from `start` on.

    `emit(stream, owner, at, data, dropped)` sends ≤ 64 KiB and returns whether it was taken; `owner()`
    names who is writing: any hashable, here (invocation id, index) or an exec id; `busy()` says that
    this very thread is inside `emit` (a finalizer or signal handler that prints): the text waits then.
    """

    def __init__(self) -> None:
        self._emit: Callable[[str, Hashable, float, bytes, int], bool]
        self._owner: Callable[[], Hashable]
        self._busy: Callable[[], bool]
        self._lock = _thread.RLock()
        self._pending: dict[tuple[str, Hashable], bytearray] = {}
        self._dropped: dict[str, int] = {}
        self._pipes: dict[int, str] = {}
        # One poll object each: the watching thread sits in its own while others look into the pipes.
        self._poll = select.poll()
        self._watch = select.poll()
        self._installed = False
        self.forked = True  # plain writes, until it starts; and again in a child

    def install(self) -> None:
        """Take over Python's streams; what is written goes to the descriptors as they are, until `start`."""
        self._installed = True
        for fd, name in STREAMS.items():
            stream = io.TextIOWrapper(
                _Stream(self, fd, name), "utf-8", "backslashreplace", write_through=True
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def start(
        self,
        emit: Callable[[str, Hashable, float, bytes, int], bool],
        owner: Callable[[], Hashable],
        busy: Callable[[], bool],
    ) -> None:
        """Take over both descriptors too, and read the pipes from now on."""
        self._emit, self._owner, self._busy = emit, owner, busy
        for fd, name in STREAMS.items():
            reading, writing = os.pipe()
            os.dup2(writing, fd)  # inheritable: child processes write there too
            os.close(writing)
            os.set_blocking(reading, False)
            self._pipes[reading] = name
            self._poll.register(reading, select.POLLIN)
            self._watch.register(reading, select.POLLIN)
        if not self._installed:
            self.install()
        self.forked = False
        os.register_at_fork(after_in_child=self._after_fork)
        _thread.start_new_thread(self._watch_pipes, ())

    def write(self, fd: int, name: str, data: bytes) -> None:
        """Take what Python code wrote; whole lines leave at once, the rest waits for its newline."""
        if self.forked:
            _write_all(fd, data)
            return
        owner = self._owner()
        with self._lock:
            pending = self._pending.setdefault((name, owner), bytearray())
            pending += data
            end = pending.rfind(b"\n") + 1
            if end == 0 and len(pending) >= PIECE_BYTES:
                end = len(pending)
            if end and not self._busy():
                whole = bytes(pending[:end])
                del pending[:end]
                self._drain_pipes()
                self._send(name, owner, whole)

    def flush(self, name: str) -> None:
        """Send the unfinished line of the code that runs now."""
        if self.forked or self._busy():
            return
        owner = self._owner()
        with self._lock:
            self._drain_pipes()
            self._send_pending(name, owner)

    def finish(self, owner: Hashable) -> None:
        """Send all that was written for `owner`, so that its result can follow."""
        _flush_c_streams()
        with self._lock:
            self._drain_pipes()
            for name in STREAMS.values():
                self._send_pending(name, owner)

    def _send_pending(self, name: str, owner: Hashable) -> None:
        pending = self._pending.pop((name, owner), None)
        if pending:
            self._send(name, owner, bytes(pending))

    def _send(self, name: str, owner: Hashable, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            dropped = self._dropped.get(name, 0)
            if self._emit(name, owner, time.time(), piece, dropped):
                self._dropped[name] = 0
            else:
                self._dropped[name] = dropped + max(1, piece.count(b"\n"))

    def _drain_pipes(self) -> None:
        for fd, _ in self._poll.poll(0):
            # What a pipe can hold, and no more: a writer that never stops must not keep us here.
            try:
                data = os.read(fd, PIECE_BYTES)
            except BlockingIOError:
                continue
            if data:
                self._send(self._pipes[fd], self._owner(), data)
            else:  # the user's code closed the descriptor: nothing can come any more
                self._poll.unregister(fd)
                self._watch.unregister(fd)

    def _watch_pipes(self) -> None:
        while not self.forked:
            if self._watch.poll():
                with self._lock:
                    self._drain_pipes()

    def _after_fork(self) -> None:
        """A child writes to the parent's pipes, and never frames.

        What it closes here is closed once: in a child of its own the numbers are other files'.
        """
        self.forked = True
        self._pending = {}
        pipes, self._pipes = self._pipes, {}
        for fd in pipes:
            os.close(fd)


class _Stream(io.RawIOBase):
    """The bytes below `sys.stdout` or `sys.stderr`."""

    def __init__(self, capture: Capture, fd: int, name: str) -> None:
        super().__init__()
        self._capture = capture
        self._fd = fd
        self.name = f"<{name}>"
        self._stream = name
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        copied = bytes(data)
        self._capture.write(self._fd, self._stream, copied)
        return len(copied)

    def flush(self) -> None:
        if not self.closed:
            self._capture.flush(self._stream)

    def close(self) -> None:
        """Stay open: user code that closes stdout would lose the output of later invocations."""


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _flush_c_streams() -> None:
    """Flush C's own stdout where somebody loaded ctypes anyway; loading it costs 10 ms."""
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None:
        ctypes.pythonapi.fflush(None)
