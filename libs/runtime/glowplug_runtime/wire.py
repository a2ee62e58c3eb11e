"""A lean NATS client for the invocation path: the core protocol on one asyncio transport.

The client library costs two to three times as much per message (queues, a flusher task, futures that
`wait_for` wraps); on a path of six messages that is felt. This one speaks only what the bus needs: publish,
subscribe, request, headers, reconnect. Whatever else (TLS, other ways to log in) is the library's: see
`bus_nats.open_bus`. Source: the NATS client protocol, docs.nats.io/reference/nats-protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

log = structlog.get_logger()

PING_S = 5.0
PINGS_UNANSWERED_MAX = 2
RECONNECT_S = 0.1
CONNECT_S = 5.0
UNSENT_BYTES_MAX = 8 * 1024 * 1024  # held while disconnected; beyond it publishing fails
CRLF = b"\r\n"
HEADERS_START = b"NATS/1.0"
NO_RESPONDERS = "503"


class WireError(Exception):
    """The broker refused, or the connection was lost under a request."""


class NoRespondersError(WireError):
    """Nobody listens on the request's subject."""


class Msg:
    """A message; the same attributes as the library's."""

    __slots__ = ("_raw_headers", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, raw_headers: bytes) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._raw_headers = raw_headers

    @property
    def headers(self) -> dict[str, str] | None:
        """Return the headers; a status line stands under "Status"."""
        if not self._raw_headers:
            return None
        lines = self._raw_headers.decode("utf-8", "surrogateescape").split("\r\n")
        found: dict[str, str] = {}
        status = lines[0][len(HEADERS_START) :].strip()
        if status:
            code, _, description = status.partition(" ")
            found["Status"] = code
            if description:
                found["Description"] = description
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value.strip()
        return found

    @property
    def no_responders(self) -> bool:
        """Return whether this says that nobody listens."""
        return self._raw_headers.startswith(b"NATS/1.0 503")


Callback = Callable[[Msg], Awaitable[None]]


class Subscription:
    """One subscription; its messages are handled one after the other, in a task of its own."""

    def __init__(
        self, client: WireClient, sid: int, subject: str, queue: str, cb: Callback
    ) -> None:
        self.sid = sid
        self.subject = subject
        self.queue = queue
        self._client = client
        self._cb = cb
        self._waiting: deque[Msg] = deque()
        self._wake: asyncio.Future[None] | None = None
        self.task = asyncio.get_running_loop().create_task(self._handle_in_order())

    def deliver(self, message: Msg) -> None:
        """Queue a message for the handler."""
        self._waiting.append(message)
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def unsubscribe(self) -> None:
        """Hear no more. The handler that runs now is let finish."""
        await self._client.unsubscribe(self)
        if asyncio.current_task() is not self.task:
            self.task.cancel()

    async def _handle_in_order(self) -> None:
        loop = asyncio.get_running_loop()
        waiting, cb = self._waiting, self._cb
        while True:
            if not waiting:
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
            await cb(waiting.popleft())


class WireClient(asyncio.Protocol):
    """A connection that reconnects for ever; see the module."""

    def __init__(
        self,
        servers: list[tuple[str, int]],
        *,
        name: str,
        user: str,
        password: str,
        inbox_prefix: str,
        on_disconnected: Callable[[], None],
        on_reconnected: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._name = name
        self._user = user
        self._password = password
        self._on_disconnected = on_disconnected
        self._on_reconnected = on_reconnected
        self._inbox = f"{inbox_prefix}.{os.urandom(9).hex()}"
        self._inboxes = itertools.count()
        self._sids = itertools.count(1)
        self._subs: dict[int, Subscription] = {}
        self._requests: dict[str, asyncio.Future[Msg]] = {}
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._buffer = b""
        self._out: list[bytes] = []  # written by the end of this turn of the loop, in one piece
        self._transport: asyncio.Transport | None = None
        self._connected = False
        self._closed = False
        self._pings_unanswered = 0
        self._writable: asyncio.Future[None] | None = None
        self._info: asyncio.Future[dict[str, Any]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.info: dict[str, Any] = {}

    # -- life -------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect for the first time, trying until a server answers. Raises: WireError if refused."""
        while not await self._try_servers():  # noqa: ASYNC110  there is no event for a server that starts
            await asyncio.sleep(RECONNECT_S / 10)
        self._spawn(self._keep_pinging())

    async def close(self) -> None:
        """Close for good."""
        self._closed = True
        for sub in list(self._subs.values()):
            sub.task.cancel()
        for task in self._tasks:
            task.cancel()
        self._send_out()
        if self._transport:
            self._transport.close()
        self._fail_waiting(WireError("the connection is closed"))

    @property
    def is_connected(self) -> bool:
        """Return whether the broker is reachable now."""
        return self._connected

    @property
    def server_version(self) -> tuple[int, int]:
        """Return the server's major and minor version."""
        major, minor = str(self.info.get("version", "0.0")).split(".")[:2]
        return int(major), int(minor)

    async def _try_servers(self) -> bool:
        for host, port in self._servers:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self._try_server(host, port)
            except (OSError, TimeoutError):
                continue
            return True
        return False

    async def _try_server(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._info = loop.create_future()
        self._buffer = b""
        transport, _ = await loop.create_connection(lambda: self, host, port)
        self._transport = transport
        self.info = await self._info
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": "0.1.0",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "name": self._name,
        }
        if self._user:
            options |= {"user": self._user, "pass": self._password}
        pong: asyncio.Future[None] = loop.create_future()
        self._pongs.clear()
        self._pongs.append(pong)
        hello = [b"CONNECT ", json.dumps(options).encode(), CRLF]
        hello += [self._sub_line(sub) for sub in self._subs.values()]
        hello += [b"SUB ", self._inbox.encode(), b".r.* 0", CRLF, b"PING", CRLF]
        transport.write(b"".join(hello))
        await pong
        self._connected = True
        self._pings_unanswered = 0
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        transport.write(b"".join(unsent))

    def connection_lost(self, exc: Exception | None) -> None:
        """Start to reconnect; what waited for an answer fails now."""
        was, self._connected, self._transport = self._connected, False, None
        self._out.clear()  # as what the kernel had not sent: whoever waits for an answer learns it
        error = WireError(f"the connection to the broker was lost: {exc}")
        self._fail_waiting(error)
        if self._info is not None and not self._info.done():
            self._info.set_exception(ConnectionError("closed before the greeting"))
        if self._closed or not was:
            return
        self._on_disconnected()
        self._spawn(self._reconnect())

    async def _reconnect(self) -> None:
        while not self._closed:
            try:
                if await self._try_servers():
                    self._on_reconnected()
                    return
            except WireError as error:
                log.warning("wire.refused", error=str(error))
            await asyncio.sleep(RECONNECT_S)

    def _fail_waiting(self, error: WireError) -> None:
        unanswered: list[asyncio.Future[Any]] = [*self._requests.values(), *self._pongs]
        for waiting in unanswered:
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever gave up waiting need not hear of it
        self._requests.clear()
        self._pongs.clear()
        if self._writable and not self._writable.done():
            self._writable.set_result(None)

    async def _keep_pinging(self) -> None:
        while not self._closed:
            await asyncio.sleep(PING_S)
            if self._transport is None or not self._connected:
                continue
            self._pings_unanswered += 1
            if self._pings_unanswered > PINGS_UNANSWERED_MAX:
                self._transport.abort()
                continue
            self._pongs.append(asyncio.get_running_loop().create_future())
            self._write(b"PING\r\n")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- sending ----------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        data: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Publish. Waits only while the kernel's buffer is full."""
        self._write(_publish_lines(subject, reply, data, headers))
        if self._writable is not None:
            await self._writable

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Publish and return the first answer.

        Raises: TimeoutError, NoRespondersError, WireError (connection lost: it may have happened).
        """
        loop = asyncio.get_running_loop()
        token = str(next(self._inboxes))
        answer: asyncio.Future[Msg] = loop.create_future()
        self._requests[token] = answer
        timer = loop.call_later(timeout_s, _time_out, answer)
        try:
            self._write(_publish_lines(subject, f"{self._inbox}.r.{token}", data, headers))
            message = await answer
        finally:
            timer.cancel()
            self._requests.pop(token, None)
        if message.no_responders:
            raise NoRespondersError(f"nobody listens on {subject}")
        return message

    async def subscribe(
        self, subject: str, queue: str = "", cb: Callback | None = None
    ) -> Subscription:
        """Hear a subject (in a queue group)."""
        if cb is None:
            raise TypeError("a subscription takes a callback")
        sub = Subscription(self, next(self._sids), subject, queue, cb)
        self._subs[sub.sid] = sub
        if self._connected:
            self._write(self._sub_line(sub))
        return sub

    async def unsubscribe(self, sub: Subscription) -> None:
        """Hear it no more."""
        if self._subs.pop(sub.sid, None) and self._connected:
            self._write(b"UNSUB %d\r\n" % sub.sid)

    async def flush(self) -> None:
        """Return when the broker has read everything written so far."""
        if self._transport is None or not self._connected:
            raise WireError("not connected")
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._write(b"PING\r\n")
        await pong

    def new_inbox(self) -> str:
        """Return a subject that only we may hear."""
        return f"{self._inbox}.i.{next(self._inboxes)}"

    def _write(self, data: bytes) -> None:
        if self._connected and self._transport is not None:
            # One system call for all that a turn of the loop has to say: each may wake the broker.
            if not self._out:
                asyncio.get_running_loop().call_soon(self._send_out)
            self._out.append(data)
            return
        self._unsent_bytes += len(data)
        if self._closed or self._unsent_bytes > UNSENT_BYTES_MAX:
            raise WireError("disconnected, and too much waits to be sent already")
        self._unsent.append(data)

    def _send_out(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(b"".join(out))

    @staticmethod
    def _sub_line(sub: Subscription) -> bytes:
        queue = f"{sub.queue} " if sub.queue else ""
        return f"SUB {sub.subject} {queue}{sub.sid}\r\n".encode()

    def pause_writing(self) -> None:
        """The kernel's buffer is full: publishers wait."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It has room again."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- hearing ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while True:
            line_end = buffer.find(CRLF, at)
            if line_end < 0:
                break
            if buffer.startswith((b"MSG ", b"HMSG "), at):
                body = line_end + 2
                words = buffer[at:line_end].decode().split(" ")
                total = int(words[-1])
                if end < body + total + 2:
                    break
                self._on_message(words, buffer[body : body + total])
                at = body + total + 2
            else:
                self._on_line(buffer[at:line_end])
                at = line_end + 2
        self._buffer = buffer[at:]

    def _on_message(self, words: list[str], payload: bytes) -> None:
        with_headers = words[0] == "HMSG"
        numbers = 2 if with_headers else 1
        reply = words[3] if len(words) == 4 + numbers else ""
        header_size = int(words[-2]) if with_headers else 0
        message = Msg(words[1], reply, payload[header_size:], payload[:header_size])
        sid = int(words[2])
        if sid:
            sub = self._subs.get(sid)
            if sub is not None:
                sub.deliver(message)
            return
        answer = self._requests.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _on_line(self, line: bytes) -> None:
        if line == b"PING":
            if self._transport:
                self._write(b"PONG\r\n")
        elif line == b"PONG":
            self._pings_unanswered = 0
            if self._pongs:
                pong = self._pongs.popleft()
                if not pong.done():
                    pong.set_result(None)
        elif line.startswith(b"INFO "):
            info = json.loads(line[5:])
            if self._info is not None and not self._info.done():
                self._info.set_result(info)
        elif line.startswith(b"-ERR"):
            text = line[5:].decode(errors="replace").strip("'")
            log.warning("wire.error", error=text)
            if "authorization" in text.lower():
                self._fail_waiting(WireError(f"the broker refused us: {text}"))


def _publish_lines(subject: str, reply: str, data: bytes, headers: dict[str, str] | None) -> bytes:
    to = f"{subject} {reply} " if reply else f"{subject} "
    if not headers:
        return b"PUB %b%d\r\n%b\r\n" % (to.encode(), len(data), data)
    lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    if lines.count("\n") != len(headers) - 1 or lines.count("\r") != len(headers) - 1:
        lines = "\r\n".join([f"{name}: {_clean(value)}" for name, value in headers.items()])
    block = f"NATS/1.0\r\n{lines}\r\n\r\n".encode()
    return b"HPUB %b%d %d\r\n%b%b\r\n" % (
        to.encode(),
        len(block),
        len(block) + len(data),
        block,
        data,
    )


def _clean(value: str) -> str:
    """Return a header value that can't end its line."""
    return value.replace("\r", " ").replace("\n", " ")


def _time_out(answer: asyncio.Future[Msg]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError("no answer in time"))
