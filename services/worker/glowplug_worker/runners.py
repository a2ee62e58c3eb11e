"""The worker's end of a runner's socket: frames out, frames in, hostile bytes stopped here.

One link per runner process. Pieces of large payloads are put together under a bound; anything a runner
may not send ends the link with a violation, and the supervisor ends the container.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from glowplug_contracts.inside import ASK_BYTES_MAX

from glowplug_worker.frames import (
    Answer,
    Ask,
    Blob,
    Exec,
    ExecEvent,
    FrameError,
    FrameReader,
    FromRunner,
    Item,
    Result,
    Run,
    ToRunner,
    encode_frame,
    encode_frames,
)
from glowplug_worker.launch import Brought

# Largest single result or item; the SDK refuses larger ones with a sentence before this kills.
PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
PARTS_BYTES_MAX: Final = 2 * PAYLOAD_BYTES_MAX
PARTS_MAX: Final = 1024
# What may wait for a runner that does not read, while it goes on asking: a payload of the largest size
# and the credit of many answers. It bounds what a container can make its worker hold.
UNREAD_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 64 * 1024 * 1024

_Key = tuple[str, str, int, int]


class RunnerLink(asyncio.Protocol):
    """The connection to one runner process; `gone` is set when it has ended.

    Args:
        process: its number in the container.
        on_frame: called with (process, header, whole body) for every payload; raises FrameError for
            what the runner may not say now.
        on_gone: called once with (process, violation or "") when the link has ended.
    """

    def __init__(
        self,
        process: int,
        on_frame: Callable[[int, FromRunner, bytes], None],
        on_gone: Callable[[int, str], None],
    ) -> None:
        self.process = process
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._reader = FrameReader()
        self._parts: dict[_Key, bytearray] = {}
        self._parts_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._gone = False
        self._paused = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what is whole."""
        try:
            for header, body in self._reader.feed(data):
                if self._gone:
                    return
                if isinstance(header, Ask):
                    self._check_unread()
                if self._parts or getattr(header, "more", False):
                    self._take_part(header, body)
                else:
                    self._on_frame(self.process, header, body)
        except FrameError as error:
            self._end(str(error))

    def connection_lost(self, _error: Exception | None) -> None:
        """The runner's process has ended, or closed its socket."""
        self._end("")

    def send(self, header: ToRunner, body: bytes = b"") -> None:
        """Send a payload of any size; the transport buffers what the runner has not read."""
        transport = self._transport
        if transport is None or self._gone:
            return
        if isinstance(header, Run | Blob | Exec):
            for frame in encode_frames(header, body):
                transport.write(frame)
        elif isinstance(header, Answer):
            transport.write(encode_frame(header, body))
        else:
            transport.write(encode_frame(header))

    def pause(self) -> None:
        """Read no more until `resume`: the runner blocks instead of filling our memory."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None and not self._gone:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close without a word to anybody."""
        self._gone = True
        if self._transport is not None:
            self._transport.abort()

    def _take_part(self, header: FromRunner, body: bytes) -> None:
        if not isinstance(header, Result | Item | ExecEvent | Ask):
            self._on_frame(self.process, header, body)
            return
        key = _key(header)
        parts = self._parts.get(key)
        if header.more:
            self._keep_part(key, body)
        elif parts is None:
            self._on_frame(self.process, header, body)
        else:
            del self._parts[key]
            self._parts_bytes -= len(parts)
            parts += body
            self._on_frame(self.process, header, bytes(parts))

    def _check_unread(self) -> None:
        """Raise FrameError if the runner asks on and on without reading what it is answered."""
        unread = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if unread > UNREAD_BYTES_MAX:
            raise FrameError(f"another request, with {unread} bytes of answers not read")

    def _keep_part(self, key: _Key, body: bytes) -> None:
        parts = self._parts.setdefault(key, bytearray())
        parts += body
        self._parts_bytes += len(body)
        if key[0] == "ask" and len(parts) > ASK_BYTES_MAX:
            raise FrameError(f"a request of more than {ASK_BYTES_MAX} bytes")
        if len(parts) > PAYLOAD_BYTES_MAX or self._parts_bytes > PARTS_BYTES_MAX:
            raise FrameError(f"a payload of more than {PAYLOAD_BYTES_MAX} bytes")
        if len(self._parts) > PARTS_MAX:
            raise FrameError(f"more than {PARTS_MAX} unfinished payloads")

    def _end(self, violation: str) -> None:
        self.gone.set()
        if self._gone:
            return
        self._gone = True
        self._parts.clear()
        if self._transport is not None:
            self._transport.abort()
        self._on_gone(self.process, violation)


def _key(header: Result | Item | ExecEvent | Ask) -> _Key:
    match header:
        case Ask():
            return ("ask", "", header.ask_id, 0)
        case Result():
            return ("result", header.id, header.index, 0)
        case Item():
            return ("item", header.id, header.index, header.number)
        case ExecEvent():
            return (header.kind, header.exec_id, 0, 0)


def send_blobs(link: RunnerLink, brought: Brought) -> None:
    """Send the pickles that `Init` announced, in its order."""
    if brought.pickled:
        link.send(Blob(name="pickled"), brought.pickled)
    if brought.on_start_pickled:
        link.send(Blob(name="on_start_pickled"), brought.on_start_pickled)
    if brought.on_exit_pickled:
        link.send(Blob(name="on_exit_pickled"), brought.on_exit_pickled)


async def open_link(
    process: int,
    ours: socket.socket,
    on_frame: Callable[[int, FromRunner, bytes], None],
    on_gone: Callable[[int, str], None],
) -> RunnerLink:
    """Return the link over our end of a socketpair."""
    ours.setblocking(False)  # noqa: FBT003 - positional only
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(
        lambda: RunnerLink(process, on_frame, on_gone), sock=ours
    )
    return link
