"""Connections to addresses that a pull may reach, and no others: names are users', and so are their addresses.

A name is resolved once, here; what it stands for is checked, and the connection goes to exactly that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from glowplug_contracts.addresses import Network, may_reach

from glowplug_imagecache.registry.patience import Patience

CONNECTIONS_MAX = 64
CONNECTIONS_PER_HOST_MAX = 16
AGENT = "glowplug-imagecache"


class ClosedAddressError(OSError):
    """A name stands for no address that may be reached."""


class GuardedResolver(AbstractResolver):
    """Resolves names to addresses that may be reached, for aiohttp."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the open addresses of a name. Raises: ClosedAddressError, OSError."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, family=family, type=socket.SOCK_STREAM
            )
        except UnicodeError as err:
            raise OSError(f"{host[:100]!r} is no host name") from err
        results = [
            ResolveResult(
                hostname=host,
                host=str(where[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, where in found
            if may_reach(ipaddress.ip_address(str(where[0]).partition("%")[0]), self._networks)
        ]
        if not results:
            raise ClosedAddressError(host)
        return results

    async def close(self) -> None:
        """Nothing is held."""


def open_session(networks: Sequence[Network], patience: Patience) -> aiohttp.ClientSession:
    """Return an HTTP session for registries; close it with `async with`.

    Bodies come as they are (a layer's gzip is part of its name), no cookie is kept, and there is no limit
    on a whole download, only on silence in it.
    """
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(networks),
        limit=CONNECTIONS_MAX,
        limit_per_host=CONNECTIONS_PER_HOST_MAX,
    )
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=patience.connect_s, sock_read=patience.stalled_s
        ),
    )
