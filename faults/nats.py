"""A small client of the broker, written for the campaign so that its eyes are not the code under test.

It speaks the text protocol over one connection, connects again for ever, and subscribes again when it has.
Whoever uses it must expect to have missed what passed while there was no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

AGAIN_S = 0.02
Heard = Callable[[str, str, dict[str, str], bytes], None]


class Broker:
    """One connection. `url` may name several servers: host:port,host:port."""

    def __init__(self, servers: str, user: str = "", password: str = "") -> None:
        self._servers = [part.rsplit("//", 1)[-1] for part in servers.split(",")]
        self._user, self._password = user, password
        self._writer: asyncio.StreamWriter | None = None
        self._subs: dict[int, tuple[str, Heard]] = {}
        self._next = 1
        self._inbox = f"_INBOX_{user or 'campaign'}.{os.urandom(6).hex()}"
        self._waiting: dict[str, asyncio.Future[tuple[dict[str, str], bytes]]] = {}
        self.connected = asyncio.Event()
        self.connections = 0
        self.mistakes: list[str] = []
        self.on_connected: list[Callable[[], Any]] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Broker]:
        """Keep connected while the context is open."""
        self.subscribe(self._inbox + ".*", self._on_answer)
        keeping = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            if self._writer:
                self._writer.close()

    def subscribe(self, pattern: str, heard: Heard) -> int:
        """Hear `heard(subject, reply, headers, data)` of every message, also after reconnects."""
        number = self._next
        self._next += 1
        self._subs[number] = (pattern, heard)
        if self._writer and self.connected.is_set():
            self._writer.write(f"SUB {pattern} {number}\r\n".encode())
        return number

    def unsubscribe(self, number: int) -> None:
        """Hear no more."""
        self._subs.pop(number, None)
        if self._writer and self.connected.is_set():
            self._writer.write(f"UNSUB {number}\r\n".encode())

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send, if there is a connection."""
        if self._writer and self.connected.is_set():
            self._writer.write(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")

    async def request(
        self, subject: str, body: object = None, timeout_s: float = 5.0
    ) -> tuple[dict[str, str], bytes]:
        """Return headers and data of the answer. Raises: TimeoutError."""
        data = b"" if body is None else json.dumps(body).encode()
        token = os.urandom(6).hex()
        answer = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        try:
            self.publish(subject, data, f"{self._inbox}.{token}")
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            del self._waiting[token]

    async def api(self, what: str, body: object = None) -> dict[str, Any]:
        """Ask JetStream; again until it answers without an error of its being away."""
        while True:
            with contextlib.suppress(TimeoutError):
                headers, data = await self.request(f"$JS.API.{what}", body)
                found: dict[str, Any] = json.loads(data) if data else {}
                if headers.get("Status") != "503" and found.get("error", {}).get("code") != 503:
                    return found
            await asyncio.sleep(AGAIN_S)

    def _on_answer(self, subject: str, _reply: str, headers: dict[str, str], data: bytes) -> None:
        answer = self._waiting.get(subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result((headers, data))

    async def _keep(self) -> None:
        turn = 0
        while True:
            host, _, port = self._servers[turn % len(self._servers)].partition(":")
            turn += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                reader, self._writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
                await self._talk(reader, self._writer)
            self.connected.clear()
            if self._writer:
                self._writer.close()
                self._writer = None
            await asyncio.sleep(AGAIN_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")  # INFO
        hello = {"verbose": False, "headers": True, "no_responders": True, "name": "campaign"}
        if self._user:
            hello |= {"user": self._user, "pass": self._password}
        writer.write(b"CONNECT " + json.dumps(hello).encode() + b"\r\nPING\r\n")
        while not (line := await reader.readuntil(b"\r\n")).startswith(b"PONG"):
            if line.startswith(b"-ERR"):
                raise ValueError(line)
        for number, (pattern, _) in self._subs.items():
            writer.write(f"SUB {pattern} {number}\r\n".encode())
        self.connections += 1
        self.connected.set()
        for told in self.on_connected:
            told()
        while True:
            line = await reader.readuntil(b"\r\n")
            if line.startswith((b"MSG ", b"HMSG ")):
                await self._message(reader, line.decode().split())
            elif line.startswith(b"PING"):
                writer.write(b"PONG\r\n")

    async def _message(self, reader: asyncio.StreamReader, words: list[str]) -> None:
        with_headers = words[0] == "HMSG"
        size = int(words[-1])
        head = int(words[-2]) if with_headers else 0
        reply = words[3] if len(words) == (6 if with_headers else 5) else ""
        payload = (await reader.readexactly(size + 2))[:-2]
        found = self._subs.get(int(words[2]))
        if found is not None:
            try:
                found[1](words[1], reply, read_headers(payload[:head]), payload[head:])
            except Exception as error:  # noqa: BLE001  a reader's mistake must not cost it the connection
                self.mistakes.append(f"{words[1]}: {error!r}")


def read_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a block `NATS/1.0 [status]…`."""
    if not block:
        return {}
    first, *lines = block.decode(errors="replace").split("\r\n")
    headers = {}
    if status := first.removeprefix("NATS/1.0").strip():
        headers["Status"] = status.split()[0]
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            headers[name.strip()] = value.strip()
    return headers
