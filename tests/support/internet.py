"""An internet for tests: a network namespace with servers, which this host reaches over a veth.

The addresses are reserved for documentation, and those that containers must not reach. As root only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec
from glowplug_worker.runtime.network import dns
from glowplug_worker.runtime.network.netlink import IPv4Address, IPv4Network, Netlink

T = TypeVar("T")

SITE = "203.0.113.10"
OTHER = "203.0.113.20"
PRIVATE = "10.66.0.1"
METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16")
HERE = IPv4Address("203.0.113.1")
LINK = "gtest0"
WEB, MAIL = 80, 25
PATIENCE_S = 30.0  # against a hang; all answers come at once

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x4000_0000


@functools.cache
def lacks() -> str:
    """Return why networks of containers' own can't be had here; "" if they can. It is really tried."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    tried = subprocess.run(
        [sys.executable, "-m", "glowplug_worker.runtime.network.choose"],
        capture_output=True,
        check=True,
    )
    found = json.loads(tried.stdout)
    return "" if found["own"] else str(found["words"])


def inside(netns: int, work: Callable[[], T]) -> T:
    """Do something in a network namespace, in a thread of its own."""
    found: list[T] = []
    failed: list[OSError] = []

    def run() -> None:
        assert _LIBC.setns(netns, _NEWNET) == 0
        try:
            found.append(work())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def connects(host: str, port: int, source: str = "", patience_s: float = PATIENCE_S) -> str:
    """Return what the server told, or the name of the error."""
    try:
        with socket.socket() as connection:
            connection.settimeout(patience_s)
            if source:
                connection.bind((source, 0))
            connection.connect((host, port))
            return connection.recv(100).decode()
    except OSError as error:
        return type(error).__name__


def resolves(server: str, name: str, kind: int = dns.A) -> tuple[int, tuple[str, ...]]:
    """Ask the resolver for a name; return its code and the addresses."""
    wire = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    question = dns.Question(
        number=7, name=name, kind=kind, klass=1, wire=wire + b"\0" + struct.pack(">HH", kind, 1)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE_S)
        asking.sendto(dns.ask(question, 7), (server, 53))
        found = dns.read_addresses(asking.recv(4096), question, 7)
    return found.code, tuple(map(str, found.addresses))


class Internet(msgspec.Struct):
    """The namespace, and the names that its name server knows: address, time to live."""

    netns: int
    names: dict[str, tuple[list[str], int]]
    asked: list[str]
    server: tuple[str, int]


class _Names(asyncio.DatagramProtocol):
    def __init__(self, internet: Internet) -> None:
        self._internet = internet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        question = dns.read_question(data)
        self._internet.asked.append(question.name)
        addresses, ttl_s = self._internet.names.get(question.name, ([], 0))
        code = dns.NOERROR if question.name in self._internet.names else dns.NXDOMAIN
        answer = dns.reply(question, code, [IPv4Address(each) for each in addresses], ttl_s)
        self._transport.sendto(answer, address)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def open_internet() -> AsyncIterator[Internet]:
    """Make it; remove it at the end."""

    def make() -> int:
        assert _LIBC.unshare(_NEWNET) == 0
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    netns = await asyncio.to_thread(lambda: _in_thread(make))
    servers = []
    closing = contextlib.ExitStack()
    try:
        addresses = (SITE, OTHER, PRIVATE, *METADATA)
        with Netlink() as link:
            link.remove(LINK)
            link.make_veth(LINK, "world", netns, mtu=1400)
            link.add_address(LINK, HERE, 24)
            link.set_up(LINK)
            for address in (PRIVATE, *METADATA):
                link.add_route(LINK, IPv4Network(address), None)

        def furnish() -> list[socket.socket]:
            with Netlink() as link:
                link.set_up("lo")
                for address in addresses:
                    link.add_address("world", IPv4Address(address), 32)
                link.set_up("world")
                link.add_route("world", IPv4Network("203.0.113.0/24"))
            made = []
            for port in (WEB, MAIL):
                each = socket.socket()
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.bind(("0.0.0.0", port))
                made.append(each)
            return made

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(writer.get_extra_info("peername")[0].encode())
            writer.close()

        servers += [await asyncio.start_server(serve, sock=each) for each in inside(netns, furnish)]
        internet = Internet(netns=netns, names={}, asked=[], server=("127.0.0.1", 0))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Names(internet), local_addr=internet.server
        )
        internet.server = transport.get_extra_info("sockname")
        closing.callback(transport.close)
        yield internet
    finally:
        closing.close()
        for server in servers:
            server.close()
        os.close(netns)
        with Netlink() as link:
            link.remove(LINK)


def _in_thread(work: Callable[[], T]) -> T:
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]
