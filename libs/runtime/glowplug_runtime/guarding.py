"""Connections to addresses that a service may reach for a user, and no others: names are users'.

A name is resolved once, here; what it stands for is checked, and the connection goes to exactly that
address. So a name that answers differently the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from glowplug_contracts.addresses import Network, may_reach


class ClosedAddressError(OSError):
    """A name stands for no address that may be reached."""


class GuardedResolver(AbstractResolver):
    """Resolves names to addresses that may be reached, for aiohttp.

    Args:
        networks: beside public addresses.
        setting: what an operator opens more with, for the error.
    """

    def __init__(self, networks: Sequence[Network], setting: str) -> None:
        self._networks = networks
        self._setting = setting

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
            raise ClosedAddressError(
                f"{host} stands for no public address; the setting {self._setting} allows others"
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""
