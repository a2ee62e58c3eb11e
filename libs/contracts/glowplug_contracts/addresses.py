"""Which addresses a service may connect to for a user: public ones, and networks that a setting names. Pure.

The gateway asks before it calls back, imagecache before it speaks to a registry; both ask again for
every address that a name stands for, since names are the user's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Addresses in which another one is hidden, that a translator on the way would reach.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


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


def is_odd_address(host: str) -> bool:
    """Return whether some programs would read an address (127.1, 0177.0.0.1) where others see a name."""
    last = host.rstrip(".").rpartition(".")[2]
    if not (last.isdigit() or last.startswith("0x")) or ":" in host:
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


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
