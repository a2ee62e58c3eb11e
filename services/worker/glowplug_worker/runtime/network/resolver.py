"""Answers containers' questions for names, by asking the host's own name servers.

It listens in the router's namespace and asks from the host's, so name servers on private addresses serve
containers that can't reach them. `names.py` says what may be asked and what is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from glowplug_contracts.reach import Reach

from glowplug_worker.runtime.network import dns
from glowplug_worker.runtime.network.names import Step, Told, judge, nameservers, tell
from glowplug_worker.runtime.network.rules import IPv4Address, Plan

log = structlog.get_logger()

PORT: Final = 53
# Questions under way at once; more are left unanswered, and programs ask again.
AT_ONCE_MAX: Final = 512
AT_ONCE_OF_ONE_MAX: Final = 64
STREAMS_OF_ONE_MAX: Final = 4
UPSTREAM_S: Final = 2.0
TRIES: Final = 2
STREAM_IDLE_S: Final = 10.0
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LENGTH: Final = struct.Struct(">H")

Server = tuple[str, int]
Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """A container that may ask: the number of its interface, and its list if it has one."""

    number: int
    reach: Reach | None = None


def servers_of_host() -> Sequence[Server]:
    """Return the name servers of this host, as they are configured now."""
    try:
        text = _RESOLV_CONF.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple((address, PORT) for address in nameservers(text))


class Resolver:
    """See the module. `answered` opens addresses to a container before it is told them."""

    def __init__(
        self,
        plan: Plan,
        spawn: Spawn,
        answered: Callable[[int, tuple[IPv4Address, ...], float], Awaitable[None]],
        servers: Callable[[], Sequence[Server]] = servers_of_host,
    ) -> None:
        self.askers: dict[str, Asker] = {}
        self._plan = plan
        self._spawn = spawn
        self._answered = answered
        self._servers = servers
        self._busy: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._transport: asyncio.DatagramTransport | None = None
        self._listener: asyncio.Server | None = None

    async def open(self, datagrams: socket.socket, streams: socket.socket) -> None:
        """Answer what comes in at these sockets."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._on_datagram), sock=datagrams
        )
        self._listener = await asyncio.start_server(self._on_stream, sock=streams)

    def close(self) -> None:
        """Listen no more."""
        if self._transport is not None:
            self._transport.close()
        if self._listener is not None:
            self._listener.close()

    def _on_datagram(self, data: bytes, address: tuple[str, int]) -> None:
        host = address[0]
        if host not in self.askers or self._busy.total() >= AT_ONCE_MAX:
            return
        if self._busy[host] < AT_ONCE_OF_ONE_MAX:
            self._busy[host] += 1
            self._spawn(self._serve_datagram(data, address), "answer a question for a name")

    async def _serve_datagram(self, data: bytes, address: tuple[str, int]) -> None:
        try:
            answer = await self._serve(data, address[0])
        finally:
            self._busy[address[0]] -= 1
            if not self._busy[address[0]]:
                del self._busy[address[0]]
        if answer is None or self._transport is None or self._transport.is_closing():
            return
        if len(answer) > dns.PLAIN_BYTES_MAX:
            answer = dns.truncated(dns.read_question(data))
        self._transport.sendto(answer, address)

    async def _on_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("peername")[0]
        self._streams[host] += 1
        try:
            while self._streams[host] <= STREAMS_OF_ONE_MAX:
                async with asyncio.timeout(STREAM_IDLE_S):
                    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                    data = await reader.readexactly(length)
                answer = await self._serve(data, host)
                if answer is None:
                    break
                writer.write(_LENGTH.pack(len(answer)) + answer)
                async with asyncio.timeout(STREAM_IDLE_S):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            self._streams[host] -= 1
            if not self._streams[host]:
                del self._streams[host]
            writer.close()

    async def _serve(self, data: bytes, host: str) -> bytes | None:
        """Return the answer to a message, or None for what deserves none."""
        asker = self.askers.get(host)
        if asker is None:
            return None
        try:
            question = dns.read_question(data)
        except dns.MalformedError:
            return None
        try:
            return await self._answer(question, asker)
        except (OSError, TimeoutError, dns.MalformedError) as error:
            log.debug("resolver.failed", name=question.name, error=repr(error))
            return dns.reply(question, dns.SERVFAIL)

    async def _answer(self, question: dns.Question, asker: Asker) -> bytes:
        step = judge(question, asker.reach)
        if isinstance(step, Told):
            return dns.reply(question, step.code)
        if step is Step.PASS_ON:
            number = secrets.randbits(16)
            data = await self._ask(dns.ask(question, number), question, number)
            return dns.passed_on(data, question, number)
        number = secrets.randbits(16)
        data = await self._ask(dns.ask(question, number), question, number)
        found = dns.read_addresses(data, question, number)
        told = tell(self._plan, found)
        if told.addresses and asker.reach is not None:
            # Before it is told: what it is told it may reach.
            await self._answered(asker.number, told.addresses, told.open_s)
        return dns.reply(question, told.code, told.addresses, told.ttl_s)

    async def _ask(self, message: bytes, question: dns.Question, number: int) -> bytes:
        """Return the first answer that a name server gives. Raises: OSError, TimeoutError."""
        servers = self._servers()
        failure: Exception = OSError("this host has no name server")
        for server in [*servers] * TRIES:
            try:
                async with asyncio.timeout(UPSTREAM_S):
                    data = await _ask_by_datagram(server, message, question, number)
                    if dns.read_addresses(data, question, number).truncated:
                        data = await _ask_by_stream(server, message)
                    return data
            except (OSError, EOFError, TimeoutError, dns.MalformedError) as error:
                failure = error
        raise OSError(f"no name server answers: {failure!r}")


async def _ask_by_datagram(
    server: Server, message: bytes, question: dns.Question, number: int
) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def on_datagram(data: bytes, _: tuple[str, int]) -> None:
        with contextlib.suppress(
            dns.MalformedError
        ):  # a guess from somebody else: wait for the real one
            dns.passed_on(data, question, number)
            if not answer.done():
                answer.set_result(data)

    def on_error(error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)

    # A socket for each question, so that its port is hard to guess.
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(on_datagram, on_error), remote_addr=server
    )
    try:
        transport.sendto(message)
        return await answer
    finally:
        transport.close()


async def _ask_by_stream(server: Server, message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(_LENGTH.pack(len(message)) + message)
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length)
    finally:
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(
        self,
        on_datagram: Callable[[bytes, tuple[str, int]], None],
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.datagram_received = on_datagram  # type: ignore[assignment,method-assign]
        self.error_received = on_error  # type: ignore[assignment,method-assign]
