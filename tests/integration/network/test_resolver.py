"""The resolver of containers' names, over real sockets, with name servers of our own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from glowplug_contracts.reach import parse_reach
from glowplug_worker.runtime.network import dns, resolver
from glowplug_worker.runtime.network.resolver import AT_ONCE_OF_ONE_MAX, Asker, Resolver, Server
from glowplug_worker.runtime.network.rules import IPv4Address, make_plan

from tests.support.eventually import eventually

SITE = IPv4Address("203.0.113.10")
TXT = 16
Answer = Callable[[dns.Question], bytes | None]


def address_of_site(question: dns.Question) -> bytes:
    return dns.reply(question, dns.NOERROR, [SITE], 60)


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP, and over TCP with an address always."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        question = dns.read_question(data)
        self.asked.append(question.name)
        answer = self.answer(question)
        if answer is not None:
            self.transport.sendto(answer, address)

    async def on_stream(self, reader, writer):
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        answer = address_of_site(dns.read_question(await reader.readexactly(length)))
        writer.write(struct.pack(">H", len(answer)) + answer)
        writer.close()


class Site(msgspec.Struct):
    resolver: Resolver
    at: Server
    opened: list[tuple[int, tuple[IPv4Address, ...], float]]

    async def ask(self, data: bytes) -> bytes:
        """Ask over UDP and return the answer."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
            await loop.sock_connect(asking, self.at)
            await loop.sock_sendall(asking, data)
            async with asyncio.timeout(20):
                return await loop.sock_recv(asking, 4096)


def question(name: str, kind: int = dns.A, number: int = 7) -> dns.Question:
    wire = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    head = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0)
    return dns.read_question(head + wire + struct.pack(">HH", kind, 1))


def wired(asked: dns.Question) -> bytes:
    return dns.ask(asked, asked.number)


@contextlib.asynccontextmanager
async def open_server(answer: Answer) -> AsyncIterator[tuple[NameServer, Server]]:
    server = NameServer(answer)
    datagrams, listening = _bind_both()
    at = datagrams.getsockname()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, sock=datagrams)
    streams = await asyncio.start_server(server.on_stream, sock=listening)
    try:
        yield server, at
    finally:
        transport.close()
        streams.close()


def _bind_both() -> tuple[socket.socket, socket.socket]:
    """Return sockets for datagrams and for streams at one port, which may be another's for one of them."""
    while True:
        streams = socket.create_server(("127.0.0.1", 0))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            datagrams.bind(streams.getsockname())
        except OSError:
            streams.close()
            datagrams.close()
        else:
            return datagrams, streams


@contextlib.asynccontextmanager
async def open_site(*servers: Server) -> AsyncIterator[Site]:
    opened: list[tuple[int, tuple[IPv4Address, ...], float]] = []

    async def answered(number: int, addresses: tuple[IPv4Address, ...], open_s: float) -> None:
        opened.append((number, addresses, open_s))

    datagrams, streams = _bind_both()
    at = datagrams.getsockname()
    async with asyncio.TaskGroup() as tasks:
        running = set()

        def spawn(work, name):
            task = tasks.create_task(work, name=name)
            running.add(task)
            task.add_done_callback(running.discard)

        made = Resolver(make_plan("198.18.0.0/15"), spawn, answered, lambda: servers)
        await made.open(datagrams, streams)
        made.askers["127.0.0.1"] = Asker(number=5)
        yield Site(resolver=made, at=at, opened=opened)
        made.close()
        for task in list(running):
            task.cancel()


async def test_an_address_is_opened_before_it_is_told_where_there_is_a_list():
    async with open_server(address_of_site) as (_, at), open_site(at) as site:
        asked = question("site.example")
        told = dns.read_addresses(await site.ask(wired(asked)), asked, 7)
        assert told.addresses == (SITE,)
        assert site.opened == []  # without a list everything public is open
        site.resolver.askers["127.0.0.1"] = Asker(number=5, reach=parse_reach(["site.example"]))
        await site.ask(wired(asked))
        assert site.opened == [(5, (SITE,), 90.0)]


async def test_the_next_server_is_asked_and_a_guess_is_not_believed(monkeypatch):
    monkeypatch.setattr(resolver, "UPSTREAM_S", 0.2)

    def guesses(asked: dns.Question) -> bytes:
        return dns.reply(
            msgspec.structs.replace(asked, number=asked.number ^ 1), 0, [IPv4Address("6.6.6.6")], 60
        )

    async with (
        open_server(guesses) as (first, one),
        open_server(address_of_site) as (second, two),
        open_site(one, two) as site,
    ):
        asked = question("site.example")
        assert dns.read_addresses(await site.ask(wired(asked)), asked, 7).addresses == (SITE,)
        assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_a_long_answer_is_fetched_over_a_stream():
    async with open_server(dns.truncated) as (_, at), open_site(at) as site:
        asked = question("site.example")
        assert dns.read_addresses(await site.ask(wired(asked)), asked, 7).addresses == (SITE,)


async def test_questions_come_over_streams_too():
    async with open_server(address_of_site) as (_, at), open_site(at) as site:
        reader, writer = await asyncio.open_connection(*site.at)
        for number in (1, 2):
            asked = question("site.example", number=number)
            writer.write(struct.pack(">H", len(wired(asked))) + wired(asked))
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            found = dns.read_addresses(await reader.readexactly(length), asked, number)
            assert found.addresses == (SITE,)
        writer.write(b"\0\3abc")  # no message
        assert await reader.read() == b""
        writer.close()


async def test_other_records_pass_unless_there_is_a_list():
    text = b"\xc0\x0c" + struct.pack(">HHIH", TXT, 1, 60, 6) + b"\5hello"

    def answer(asked: dns.Question) -> bytes:
        plain = dns.reply(asked, dns.NOERROR)
        return plain[:6] + b"\0\1" + plain[8:] + text

    async with open_server(answer) as (server, at), open_site(at) as site:
        asked = question("site.example", TXT)
        assert (await site.ask(wired(asked))).endswith(text)
        site.resolver.askers["127.0.0.1"] = Asker(number=5, reach=parse_reach(["site.example"]))
        server.asked.clear()
        assert (await site.ask(wired(asked))) == dns.reply(asked, dns.NOERROR)
        assert server.asked == []


@pytest.mark.parametrize("servers", [(), (("127.0.0.1", 1),)])
async def test_without_a_server_that_answers_the_failure_is_told(servers):
    async with open_site(*servers) as site:
        asked = question("site.example")
        assert (await site.ask(wired(asked)))[3] & 0xF == dns.SERVFAIL


async def test_a_flood_is_bounded_and_strangers_are_not_answered():
    async with open_server(lambda _: None) as (server, at), open_site(at) as site:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooding:
            flooding.connect(site.at)
            flooding.send(b"no message")
            for number in range(3 * AT_ONCE_OF_ONE_MAX):
                flooding.send(wired(question(f"n{number}.example", number=number)))
            await eventually(lambda: len(server.asked) == AT_ONCE_OF_ONE_MAX)
            site.resolver.askers.clear()
            server.answer = address_of_site
            flooding.send(wired(question("stranger.example")))
            await asyncio.sleep(0)
            assert "stranger.example" not in server.asked
