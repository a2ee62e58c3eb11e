"""The router's namespace, and the namespaces that are made ready for containers.

All of it happens in one thread that lives in the router's namespace: what it opens belongs there. Nothing
of it has a name in the file system, so nothing is left when the worker ends.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from glowplug_worker.runtime.network import nft
from glowplug_worker.runtime.network.host import Host
from glowplug_worker.runtime.network.netlink import IPv4Address, IPv4Network, Netlink, Nftables
from glowplug_worker.runtime.network.rules import TABLE, UPLINK, Plan, router_rules

T = TypeVar("T")

INSIDE: Final = "eth0"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET: Final = 0x4000_0000
_EVERYWHERE: Final = IPv4Network("0.0.0.0/0")


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """A network for one container. `number` 0: it leads nowhere."""

    fd: int
    number: int = 0
    address: IPv4Address | None = None


class Router:
    """Makes namespaces and keeps the way out of them. Every method but `close` runs in its thread."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._fd = -1
        self._number = 1
        self._mtu = 0
        self._held = ExitStack()
        self._link: Netlink
        self._filter: Nftables

    def do(self, work: Callable[[], T]) -> Future[T]:
        """Run something in the router's thread."""
        return self._thread.submit(work)

    def open(self, host: Host, mtu: int) -> None:
        """Make the router and join it to the host. Raises: OSError when the kernel doesn't let us."""
        outside = _open_own()
        try:
            self._fd = _enter_new()
            try:
                _enter(outside)
                host.connect(self._fd, UPLINK, mtu)
            finally:
                _enter(self._fd)
        finally:
            os.close(outside)
        self._mtu = mtu
        ours, router = host.record.addresses(self.plan)
        self._link = link = self._held.enter_context(Netlink())
        _disable_ipv6("all")
        link.set_up("lo")
        link.add_address("lo", self.plan.gateway)
        link.add_address(UPLINK, router, 30)
        link.set_up(UPLINK)
        link.add_route(UPLINK, _EVERYWHERE, ours)
        _write("ipv4/conf/all/send_redirects", "0")
        nft.apply(router_rules(self.plan))
        # Last: nothing is forwarded before the rules are there.
        _write("ipv4/ip_forward", "1")
        self._filter = self._held.enter_context(Nftables())

    def close(self) -> None:
        """Let go of the router; it ends with the last container in it."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        self._held.close()
        if self._fd >= 0:
            os.close(self._fd)

    def make(self) -> Namespace:
        """Make a namespace with a way to the router."""
        with self._made() as fd:
            return self._furnished(fd)

    def furnish(self, fd: int) -> Namespace:
        """Make a way to the router from a namespace that is there already, and empty."""
        try:
            _enter(fd)
            return self._furnished(fd)
        finally:
            _enter(self._fd)

    def make_empty(self) -> Namespace:
        """Make a namespace with loopback only."""
        with self._made() as fd:
            _prepare()
            with Netlink() as link:
                link.set_up("lo")
        return Namespace(fd=fd)

    def _furnished(self, fd: int) -> Namespace:
        """Furnish the namespace in which the thread stands."""
        number = self._next_number()
        address, gateway = self.plan.inside[number + 1], self.plan.gateway
        _prepare()
        with Netlink() as link:
            link.set_up("lo")
            link.make_veth(INSIDE, f"i{number}", self._fd, mtu=self._mtu)
            link.add_address(INSIDE, address)
            link.set_up(INSIDE)
            link.add_route(INSIDE, IPv4Network(gateway))
            link.add_route(INSIDE, _EVERYWHERE, gateway)
        self._link.set_up(f"i{number}")
        self._link.add_route(f"i{number}", IPv4Network(address))
        return Namespace(fd=fd, number=number, address=address)

    def answered(self, number: int, addresses: tuple[IPv4Address, ...], ttl_s: float) -> None:
        """Let a container with a list reach addresses for so long."""
        self._filter.add_elements(TABLE, f"answered{number}", addresses, ttl_s)

    def open_inside(self, namespace: Namespace) -> socket.socket:
        """Return a TCP socket that is in a container's namespace, to connect to what listens there."""
        try:
            _enter(namespace.fd)
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        finally:
            _enter(self._fd)
        return opened

    @contextmanager
    def _made(self) -> Iterator[int]:
        """Stand in a new namespace for a while; yield its descriptor."""
        fd = _enter_new()
        try:
            yield fd
        except BaseException:
            os.close(fd)
            raise
        finally:
            _enter(self._fd)

    def _next_number(self) -> int:
        """Return an interface's number. They go round, so that no address is soon another's."""
        number = self._number
        self._number = number + 1 if number + 3 < self.plan.inside.num_addresses else 1
        return number


def _open_own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter_new() -> int:
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"a new network namespace: {os.strerror(number)}")
    return _open_own()


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering a network namespace: {os.strerror(number)}")


def _prepare() -> None:
    """Set what holds for a container's namespace, before it has an interface."""
    _disable_ipv6("default")  # loopback keeps ::1
    _write("ipv4/ip_unprivileged_port_start", "0")


def _disable_ipv6(where: str) -> None:
    with suppress(FileNotFoundError):  # a kernel without it
        _write(f"ipv6/conf/{where}/disable_ipv6", "1")


def _write(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value, encoding="ascii")
