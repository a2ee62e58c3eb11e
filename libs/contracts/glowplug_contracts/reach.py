"""Reads what an allow-list names: host names, wildcards, addresses and ranges. Pure.

The gateway refuses with it what can't be meant, the worker builds its rules from it, and neither trusts
the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

ENTRIES_MAX: Final = 128
_LABEL: Final = re.compile(r"^(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NAME_MAX: Final = 253

IPv4Network = ipaddress.IPv4Network


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What an allow-list names.

    Attributes:
        networks: addresses are ranges of one.
        names: host names, lower case, as they travel (IDNA), without a last dot.
        below: what stands behind "*." in wildcards: every name below it, not itself.
    """

    networks: tuple[IPv4Network, ...] = ()
    names: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()

    def lets(self, name: str) -> bool:
        """Return whether a name (lower case, no last dot) is listed."""
        if name in self.names:
            return True
        labels = name.split(".")
        return any(".".join(labels[n:]) in self.below for n in range(1, len(labels)))


def parse_reach(entries: Iterable[str]) -> Reach:
    """Return what the entries name. Raises: ValueError with a sentence about the first that is wrong."""
    networks: list[IPv4Network] = []
    names: set[str] = set()
    below: set[str] = set()
    for entry in entries:
        text = entry.strip()
        if (network := _network(text)) is not None:
            networks.append(network)
        elif text.startswith("*."):
            below.add(host_name(text[2:]))
        else:
            names.add(host_name(text))
    return Reach(networks=tuple(networks), names=frozenset(names), below=frozenset(below))


def host_name(text: str) -> str:
    """Return a host name as it travels: lower case, IDNA, no last dot. Raises: ValueError."""
    name = text.removesuffix(".")
    try:
        name = name.encode("idna").decode("ascii") if not name.isascii() else name
    except UnicodeError:
        raise ValueError(f"{text[:100]!r} is no host name") from None
    name = name.lower()
    labels = name.split(".")
    if len(name) > _NAME_MAX or not all(map(_LABEL.match, labels)):
        raise ValueError(
            f"{text[:100]!r} is no host name, wildcard, address or range: write it like 'pypi.org', "
            "'*.pypi.org', '203.0.113.7' or '203.0.113.0/24', without a scheme, port or path"
        )
    # What some programs read as an address (1.2.3, 0x7f.1, 2130706433) must not pass for a name.
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise ValueError(f"{text[:100]!r} is neither a host name nor a whole IPv4 address")
    return name


def _network(text: str) -> IPv4Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network):
        raise ValueError(  # noqa: TRY004 - of the value, not of its type
            f"{text[:100]!r}: containers have no IPv6; list the host's name or its IPv4 address"
        )
    return network
