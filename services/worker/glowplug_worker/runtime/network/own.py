"""Gives each container a network of its own (`ports.Networks`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Literal, TypeVar

import structlog
from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.reach import Reach

from glowplug_worker.access import Access, Granted
from glowplug_worker.networks import Plain
from glowplug_worker.ports import Attachment, Bind
from glowplug_worker.runtime.network import nft
from glowplug_worker.runtime.network.host import RECORDS, Host, open_host, path_mtu
from glowplug_worker.runtime.network.resolver import (
    PORT,
    Asker,
    Resolver,
    Server,
    Spawn,
    servers_of_host,
)
from glowplug_worker.runtime.network.router import Namespace, Router
from glowplug_worker.runtime.network.rules import (
    IPv4Address,
    Plan,
    list_rules,
    platform_rules,
    unlist_rules,
)

log = structlog.get_logger()
T = TypeVar("T")

# Namespaces made ahead, so that a start doesn't wait for one. Each is some 100 KiB of the kernel's memory.
READY: Final = 4
_RESOLV_CONF: Final = "nameserver {gateway}\noptions timeout:3 attempts:2\n"
_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost\n"


class OwnNetworks:
    """See the module."""

    own = True
    host = True

    def __init__(
        self, host: Host, router: Router, resolver: Resolver, files: tuple[Bind, ...]
    ) -> None:
        self._host = host
        self.files = files
        self._router = router
        self._resolver = resolver
        self._ready: deque[Namespace] = deque()
        self._making: set[Future[None]] = set()
        self._platform: frozenset[tuple[IPv4Address, int]] = frozenset()
        self._closed = False

    async def attach(self, name: str, granted: Granted) -> Attachment:
        """Return a network that reaches what was granted (`ports.Networks.attach`)."""
        if granted.access is Access.HOST:
            return Plain("shared")
        for network in granted.reach.networks:
            if self._router.plan.shut(network):
                raise RejectedError(
                    "network.closed",
                    f"allow_list names {network}, which containers can't reach here: private networks are "
                    "closed unless the operator opens them (GLOWPLUG_WORKER_NETWORK_OPEN)",
                )
        try:
            return await self._attach(granted)
        except OSError as error:
            raise UnavailableError(
                "platform.unavailable", f"the network of {name} can't be made: {error}"
            ) from error

    async def _attach(self, granted: Granted) -> Attached:
        if granted.access is Access.NONE:
            return Attached(self, await self._take(self._router.make_empty))
        namespace = self._ready.popleft() if self._ready else await self._take(self._router.make)
        self._refill()
        reach = granted.reach if granted.access is Access.LISTED else None
        attached = Attached(self, namespace, reach)
        try:
            await self._enter(namespace, reach)
        except BaseException:
            await asyncio.shield(attached.close())
            raise
        return attached

    async def move(self, attached: Attached, pid: int) -> None:
        """Give a running process's own namespace the network that a container was to have."""
        before = attached.namespace
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if before.address is None:
            attached.namespace = Namespace(fd=fd)
            os.close(before.fd)
            return
        try:
            attached.namespace = await self._do(lambda: self._router.furnish(fd))
        except BaseException:
            os.close(fd)
            raise
        await self._enter(attached.namespace, attached.reach)
        await self._leave(before, attached.reach)
        # Nobody was ever in it, so another may have it.
        self._ready.append(before)

    async def _enter(self, namespace: Namespace, reach: Reach | None) -> None:
        """Let a namespace reach what it may, and ask for names."""
        if reach is not None:
            rules = list_rules(namespace.number, reach.networks)
            await self._do(lambda: nft.apply(rules))
        asker = Asker(number=namespace.number, reach=reach)
        self._resolver.askers[str(namespace.address)] = asker

    async def _leave(self, namespace: Namespace, reach: Reach | None) -> None:
        """Take that away again."""
        self._resolver.askers.pop(str(namespace.address), None)
        if reach is not None and not self._closed:
            try:
                await self._do(lambda: nft.apply(unlist_rules(namespace.number)))
            except OSError as error:
                log.warning("network.unlist_failed", number=namespace.number, error=str(error))

    async def open_inside(self, attached: Attached) -> socket.socket:
        """Return a TCP socket inside a container's network, unconnected: published ports go this way."""
        return await self._do(lambda: self._router.open_inside(attached.namespace))

    async def tend(self, doors: Iterable[tuple[str, int]]) -> None:
        """Keep true what changes around containers (`ports.Networks.tend`)."""
        await asyncio.to_thread(self._host.follow)
        found = set()
        for host, port in doors:
            with contextlib.suppress(ValueError):
                found.add((IPv4Address(host), port))
        wanted = frozenset(found)
        if wanted != self._platform:
            await self._do(lambda: nft.apply(platform_rules(wanted)))
            self._platform = wanted

    async def give_back(self, attached: Attached) -> None:
        """A container's network is needed no more."""
        os.close(attached.namespace.fd)
        await self._leave(attached.namespace, attached.reach)

    def prepare(self) -> None:
        """Make the first namespaces ahead."""
        self._refill()

    def close(self) -> None:
        """Give up everything. Containers that still live lose their network."""
        self._closed = True
        self._router.do(lambda: None).result()  # what was being made is made
        while self._ready:
            os.close(self._ready.popleft().fd)

    def _refill(self) -> None:
        """Have namespaces made ahead, in the router's thread, while the loop does other things."""
        for _ in range(READY - len(self._ready) - len(self._making)):
            future = self._router.do(self._make_ready)
            self._making.add(future)
            future.add_done_callback(self._making.discard)

    def _make_ready(self) -> None:
        try:
            self._ready.append(self._router.make())
        except OSError as error:
            log.warning("network.make_failed", error=str(error))

    async def _take(self, make: Callable[[], Namespace]) -> Namespace:
        """Have a namespace made. Cancelling closes the one that comes too late."""
        future = self._router.do(make)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(_close_late)
            raise

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._router.do(work))


class Attached:
    """A container's own network (`ports.Attachment`)."""

    network: Literal["own"] = "own"

    def __init__(
        self, networks: OwnNetworks, namespace: Namespace, reach: Reach | None = None
    ) -> None:
        self.namespace = namespace
        self.reach = reach
        self.binds = networks.files
        self._networks: OwnNetworks | None = networks

    @property
    def netns(self) -> int | None:
        """Return the namespace's descriptor."""
        return self.namespace.fd

    async def move(self, pid: int) -> None:
        """Give it to a process that was born with an empty network (`ports.Attachment.move`)."""
        if self._networks is None:
            return
        try:
            await self._networks.move(self, pid)
        except OSError as error:
            raise UnavailableError(
                "platform.unavailable", f"the network of a forked container can't be made: {error}"
            ) from error

    async def close(self) -> None:
        """Give it back. May be repeated."""
        networks, self._networks = self._networks, None
        if networks is not None:
            await networks.give_back(self)


@contextlib.asynccontextmanager
async def open_own(
    worker: str,
    plan: Plan,
    spawn: Spawn,
    directory: Path,
    *,
    records: Path = RECORDS,
    servers: Callable[[], Sequence[Server]] = servers_of_host,
) -> AsyncIterator[OwnNetworks]:
    """Make the router of a worker; remove it at the end. `directory` keeps files that containers see.

    Raises: OSError or UnavailableError when it can't be had here: no root, no nftables, no namespaces.
    """
    host = await asyncio.to_thread(open_host, worker, plan, records)
    router = Router(plan)
    networks: OwnNetworks | None = None
    resolver: Resolver | None = None
    try:
        await _run(router, lambda: router.open(host, path_mtu()))

        async def answered(number: int, addresses: tuple[IPv4Address, ...], open_s: float) -> None:
            await _run(router, lambda: router.answered(number, addresses, open_s))

        resolver = Resolver(plan, spawn, answered, servers)
        await resolver.open(*await _run(router, lambda: _listen(plan)))
        networks = OwnNetworks(host, router, resolver, _write_files(plan, directory))
        networks.prepare()
        yield networks
    finally:
        if resolver is not None:
            resolver.close()
        if networks is not None:
            networks.close()
        await asyncio.shield(asyncio.to_thread(_close, router, host))


def _write_files(plan: Plan, directory: Path) -> tuple[Bind, ...]:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    texts = {"resolv.conf": _RESOLV_CONF.format(gateway=plan.gateway), "hosts": _HOSTS}
    for name, text in texts.items():
        path = directory / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o644)
    return tuple(Bind(source=directory / name, target=f"/etc/{name}") for name in texts)


async def _run(router: Router, work: Callable[[], T]) -> T:
    return await asyncio.wrap_future(router.do(work))


def _listen(plan: Plan) -> tuple[socket.socket, socket.socket]:
    """Return the resolver's sockets, in the router's namespace."""
    made = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        each = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        each.bind((str(plan.gateway), PORT))
        made.append(each)
    return made[0], made[1]


def _close(router: Router, host: Host) -> None:
    try:
        router.close()
    finally:
        host.close()


def _close_late(future: Future[Namespace]) -> None:
    if not future.cancelled() and future.exception() is None:
        os.close(future.result().fd)
