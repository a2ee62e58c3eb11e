"""Where the gateway may send requests that users name: public addresses, and networks that a setting names.

This judges what can be seen of a URL; what its name stands for is judged when it is called (`GuardedResolver` of the
runtime). Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from glowplug_contracts.addresses import Network, is_odd_address, may_reach
from glowplug_contracts.errors import InvalidRequestError

URL_CHARS_MAX = 2_048


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


def _bad(url: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        "request.invalid",
        f"callback_url {url[:200]!r} {why}",
        details={"fields": {"callback_url": why}},
    )
