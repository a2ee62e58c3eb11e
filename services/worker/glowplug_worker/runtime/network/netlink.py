"""The few words of netlink that networks of containers need: links, addresses, routes, elements of sets.

Written here and not taken from a library because they are on the way of every start (0.1 ms each), and a
library that speaks all of netlink costs 0.6 s of import and 16 MiB in every worker. Rule sets are not
written in it: those are text, read by `nft` (nft.py). A socket belongs to the network namespace in which
its thread was when it was opened.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

IPv4Address = ipaddress.IPv4Address
IPv4Network = ipaddress.IPv4Network

_ROUTE, _NETFILTER = 0, 12
_REQUEST, _ACK, _CREATE, _EXCL = 0x1, 0x4, 0x400, 0x200
_ERROR = 2
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE = 16, 17, 18, 20, 24
_IFF_UP = 1
_NESTED, _NET_BYTEORDER = 0x8000, 0x4000
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_SCOPE_LINK = 253
_RECV_BYTES = 1 << 16
_TIMEOUT_S = 10.0
_HEADER_BYTES = 16

_NFNL_BATCH_BEGIN, _NFNL_BATCH_END, _NFTABLES = 16, 17, 10
_NEWSETELEM, _DELSETELEM = 12, 14
_NFPROTO_INET = 1
_ELEM_TABLE, _ELEM_SET, _ELEM_LIST, _LIST_ELEM = 1, 2, 3, 1
_KEY, _TIMEOUT, _DATA_VALUE = 1, 4, 1


class Netlink:
    """A socket to the kernel's network, of the namespace that this thread is in."""

    def __init__(self, family: int = _ROUTE) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family
        )
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.bind((0, 0))
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._socket.close()

    def make_veth(self, name: str, peer: str, netns: int, *, mtu: int) -> None:
        """Make a pair of interfaces: `name` here, `peer` in the namespace behind `netns`."""
        their = _text(_IFLA_IFNAME, peer) + _u32(_IFLA_MTU, mtu) + _u32(_IFLA_NET_NS_FD, netns)
        kind = _text(_INFO_KIND, "veth") + _nested(
            _INFO_DATA, _attribute(_VETH_PEER, _link(0) + their)
        )
        ours = _text(_IFLA_IFNAME, name) + _u32(_IFLA_MTU, mtu) + _nested(_IFLA_LINKINFO, kind)
        self._ask(_NEWLINK, _CREATE | _EXCL, _link(0) + ours, f"making {name}")

    def set_up(self, name: str) -> None:
        """Let an interface carry traffic."""
        body = _link(self._index(name), _IFF_UP)
        self._ask(_NEWLINK, 0, body, f"setting {name} up")

    def remove(self, name: str) -> None:
        """Remove an interface, and so its peer; one that is gone is fine."""
        try:
            self._ask(_DELLINK, 0, _link(0) + _text(_IFLA_IFNAME, name), f"removing {name}")
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def add_address(self, name: str, address: IPv4Address, length: int = 32) -> None:
        """Give an interface an address."""
        body = struct.pack("=BBBBI", socket.AF_INET, length, 0, 0, self._index(name))
        body += _attribute(2, address.packed) + _attribute(1, address.packed)  # local, address
        self._ask(_NEWADDR, _CREATE | _EXCL, body, f"giving {name} {address}")

    def add_route(self, name: str, to: IPv4Network, via: IPv4Address | None = None) -> None:
        """Send what goes to a network out at an interface, by way of a gateway or straight."""
        scope = 0 if via is not None else _SCOPE_LINK
        # family, destination and source length, tos, main table, by boot, scope, unicast, flags
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, to.prefixlen, 0, 0, 254, 3, scope, 1, 0)
        body += _attribute(1, to.network_address.packed)
        body += _attribute(5, via.packed) if via is not None else b""
        body += _u32(4, self._index(name))
        self._ask(_NEWROUTE, _CREATE | _EXCL, body, f"routing {to} to {name}")

    def _index(self, name: str) -> int:
        """Return an interface's number, in the namespace of this socket and not of the thread."""
        what = f"looking for {name}"
        told = self._ask(_GETLINK, 0, _link(0) + _text(_IFLA_IFNAME, name), what, answers=_NEWLINK)
        (index,) = struct.unpack_from("=i", told, 4)
        return int(index)

    def _ask(self, kind: int, flags: int, body: bytes, what: str, *, answers: int = 0) -> bytes:
        self._number += 1
        message = _message(kind, _REQUEST | _ACK | flags, self._number, body)
        self._socket.send(message)
        return self._await_ack(self._number, what, answers)

    def _await_ack(self, number: int, what: str, answers: int = 0) -> bytes:
        """Wait until the kernel has done what message `number` asks; return its answer of a kind."""
        answer = b""
        while True:
            data = self._socket.recv(_RECV_BYTES)
            while data:
                length, kind, _, told, _ = struct.unpack_from("=IHHII", data)
                if kind == _ERROR and told == number:
                    (code,) = struct.unpack_from("=i", data, _HEADER_BYTES)
                    if code:
                        raise OSError(-code, f"{what}: {os.strerror(-code)}")
                    return answer
                if kind == answers and told == number:
                    answer = data[_HEADER_BYTES:length]
                data = data[(length + 3) & ~3 :]


class Nftables(Netlink):
    """A socket to the packet filter: puts elements with an end into sets. All else is `nft`'s."""

    def __init__(self) -> None:
        super().__init__(_NETFILTER)

    def add_elements(
        self, table: str, name: str, addresses: Sequence[IPv4Address], timeout_s: float
    ) -> None:
        """Put addresses into a set, from now for so long, also those that are in it already."""
        with_end = _attribute(_TIMEOUT, struct.pack(">Q", int(timeout_s * 1000)))
        # Adding what is there changes nothing, not even its end: so it is taken out, which in turn needs
        # that it is there. The kernel does all three in one step.
        steps = (
            (_NEWSETELEM, _CREATE, _elements(table, name, addresses, with_end)),
            (_DELSETELEM, 0, _elements(table, name, addresses)),
            (_NEWSETELEM, _CREATE, _elements(table, name, addresses, with_end)),
        )
        first, last = self._number + 1, self._number + 2 + len(steps)
        batch = _message(_NFNL_BATCH_BEGIN, _REQUEST, first, _family(0, _NFTABLES))
        for number, (kind, flags, body) in enumerate(steps, first + 1):
            ack = _ACK if number == last - 1 else 0
            batch += _message(_NFTABLES << 8 | kind, _REQUEST | ack | flags, number, body)
        batch += _message(_NFNL_BATCH_END, _REQUEST, last, _family(0, _NFTABLES))
        self._number = last
        self._socket.send(batch)
        self._await_ack(last - 1, f"adding to {name}")


def _elements(table: str, name: str, addresses: Sequence[IPv4Address], more: bytes = b"") -> bytes:
    elements = b"".join(
        _nested(_LIST_ELEM, _nested(_KEY, _attribute(_DATA_VALUE, address.packed)) + more)
        for address in addresses
    )
    body = _family(_NFPROTO_INET) + _text(_ELEM_TABLE, table) + _text(_ELEM_SET, name)
    return body + _nested(_ELEM_LIST, elements)


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", _HEADER_BYTES + len(body), kind, flags, number, 0) + body


def _link(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _family(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _nested(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))
