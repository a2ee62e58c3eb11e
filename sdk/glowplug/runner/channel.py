"""The runner's end of the worker's socket: blocking reads in one thread, locked writes from all.

An interrupt (cancel, time-out) raises in the main thread at any instruction, so a write that has begun
holds it back until the frame is whole: half a frame would end the container.
"""

from __future__ import annotations

import _thread
import os
import select

from glowplug.runner import frames

READ_BYTES = 1 << 18


class Channel:
    """One framed connection over an inherited descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
        self._fd = fd
        self._lock = _thread.allocate_lock()
        self._writer = 0
        self._main = _thread.get_ident()
        self._held: BaseException | None = None
        self._parser = frames.FrameParser()
        self._frames: list[tuple[frames.Header, bytes]] = []
        self._congested = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._fd

    def receive(self) -> tuple[frames.Header, bytes] | None:
        """Return the next frame, or None when the worker is gone."""
        while not self._frames:
            try:
                data = os.read(self._fd, READ_BYTES)
            except OSError:
                return None
            if not data:
                return None
            self._frames = self._parser.feed(data)
            self._frames.reverse()
        return self._frames.pop()

    def receive_available(self) -> list[tuple[frames.Header, bytes]] | None:
        """Return the frames that one read brings (perhaps none yet), or None at the end."""
        waiting, self._frames = self._frames[::-1], []
        if waiting:
            return waiting
        try:
            data = os.read(self._fd, READ_BYTES)
        except OSError:
            return None
        return self._parser.feed(data) if data else None

    def send(self, header: frames.Header, body: bytes | bytearray | memoryview = b"") -> None:
        """Send a payload of any size; waits as long as the worker does not read."""
        if len(body) <= frames.BODY_BYTES_MAX:
            self._send_frame(header, body)
            return
        view = memoryview(body)
        at = 0
        while len(view) - at > frames.BODY_BYTES_MAX:
            piece = view[at : at + frames.BODY_BYTES_MAX]
            self._send_frame({**header, "more": True}, piece)
            at += len(piece)
        self._send_frame(header, view[at:])

    def send_unless_congested(self, header: frames.Header, body: bytes, wait_s: float) -> bool:
        """Send a small frame if the socket takes it within `wait_s`, else return False.

        After one refusal it does not wait again until the worker reads, so that output can slow the
        user's code down by `wait_s` once and not at every line. A poll that says "writable" means
        three quarters of the socket's buffer (≥ 150 KiB) are free, so a frame of 64 KiB then never
        blocks.
        """
        return self._send_frame(header, body, int(wait_s * 1000))

    def busy(self) -> bool:
        """Return whether this thread is in the middle of a frame already."""
        return self._writer == _thread.get_ident()

    def hold_interrupt(self, interrupt: BaseException) -> bool:
        """Return whether `interrupt` was kept back, to be raised when the main thread's frame is out."""
        if self._writer != self._main:
            return False
        self._held = interrupt
        return True

    def close(self) -> None:
        """Give the descriptor up (in a forked child, which must never write frames).

        Once: a child of that child runs this again, and by then the number is another file's.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            os.close(fd)
        except OSError:
            return

    def _send_frame(
        self,
        header: frames.Header,
        body: bytes | bytearray | memoryview,
        wait_ms: int | None = None,
    ) -> bool:
        head = frames.encode_prefix_and_header(header, len(body))
        ident = _thread.get_ident()
        with self._lock:
            self._writer = ident
            try:
                taken = wait_ms is None or self._has_room(wait_ms)
                if taken:
                    self._write(head, body)
            finally:
                self._writer = 0
        if ident == self._main and self._held is not None:
            held, self._held = self._held, None
            raise held
        return taken

    def _has_room(self, wait_ms: int) -> bool:
        room = bool(self._poll.poll(0 if self._congested else wait_ms))
        self._congested = not room
        return room

    def _write(self, head: bytes, body: bytes | bytearray | memoryview) -> None:
        written = os.writev(self._fd, [head, body])
        if written < len(head) + len(body):
            rest = memoryview(head + bytes(body))[written:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
