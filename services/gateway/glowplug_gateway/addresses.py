"""Where the gateway may send requests that users name: public addresses, and networks that a setting names.

A name is resolved once, by us; what it resolves to is checked, and the connection goes to exactly that
address. So a name that answers differently the second time gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from glowplug_contracts.errors import InvalidRequestError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_CHARS_MAX = 2_048
# Addresses in which another one is hidden, that a translator on the way would reach.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class ForbiddenAddressError(OSError):
    """A name stands for no address that may be reached."""


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in "127.0.0.0/8, fd00::/8". Raises: ValueError."""
    return tuple(ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip())


def may_reach(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether an address is public, or in one of the networks."""
    inner = _inner(address)
    if any(
        one.version == network.version and one in network for network in networks for one in inner
    ):
        return True
    return all(one.is_global and not one.is_multicast and not one.is_reserved for one in inner)


def _inner(address: Address) -> tuple[Address, ...]:
    """Return the address and those hidden in it."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    hidden: list[Address] = [address]
    if address.sixtofour is not None:
        hidden.append(address.sixtofour)
    if address.teredo is not None:
        hidden += address.teredo
    return tuple(hidden)


def check_url(url: str, networks: Sequence[Network]) -> None:
    """Raise InvalidRequestError unless this is a URL that may be called, as far as can be seen."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _bad(url, "is no URL") from None
    if len(url) > URL_CHARS_MAX or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise _bad(url, f"is no URL of at most {URL_CHARS_MAX} characters")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise _bad(url, "must begin with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise _bad(url, "must hold no password; check the signature instead")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return  # a name: checked when it is resolved
    if not may_reach(literal, networks):
        raise _bad(url, "is no public address; the setting callback_networks allows others")


class GuardedResolver(AbstractResolver):
    """Resolves names to addresses that may be reached, for aiohttp."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises: ForbiddenAddressError, OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM
        )
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
            raise ForbiddenAddressError(
                f"{host} stands for no public address; the setting callback_networks allows others"
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""


def _bad(url: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        "request.invalid",
        f"callback_url {url[:200]!r} {why}",
        details={"fields": {"callback_url": why}},
    )
