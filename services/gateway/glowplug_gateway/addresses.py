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
from glowplug_contracts.addresses import Network, is_odd_address, may_reach
from glowplug_contracts.errors import InvalidRequestError

URL_CHARS_MAX = 2_048


class ForbiddenAddressError(OSError):
    """A name stands for no address that may be reached."""


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
    if is_odd_address(host):
        raise _bad(url, "has a host that some programs would read as an address; write it out")
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
