"""What may pass between containers, their worker's host and the internet, as rule sets for `nft`. Pure.

The router's table decides for containers; the host's lets the router out and keeps it from the host. All
that is not named is dropped. What is refused is told to the sender, so that programs fail at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

IPv4Address = ipaddress.IPv4Address
IPv4Network = ipaddress.IPv4Network

UPLINK: Final = "up"  # the router's interface to the host
TABLE: Final = "glowplug"  # of the router
# Of one container: connections at once, new ones a second, and in a burst.
CONNECTIONS_MAX: Final = 4096
CONNECTIONS_PER_S: Final = 500
CONNECTIONS_BURST: Final = 2000
# Addresses that names of one allow-list may stand for at a time.
ANSWERED_MAX: Final = 4096

# Nobody may reach these from inside, whatever anybody lists: this host, link-local with the metadata of
# clouds (169.254.169.254), Azure's, multicast, and what is reserved.
NEVER: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "192.0.0.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# Private networks (100.64/10 also holds 100.100.100.200): closed unless the operator opens some.
PRIVATE: Final = tuple(
    map(IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"))
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of a worker's networks.

    Attributes:
        inside: of containers; of the router in it the first.
        outside: of the routers of all workers of this host, four for each.
        opened: private networks that the operator lets containers reach.
    """

    inside: IPv4Network
    outside: IPv4Network
    opened: tuple[IPv4Network, ...] = ()

    @property
    def gateway(self) -> IPv4Address:
        """Return where containers find the router and its resolver."""
        return self.inside[1]

    @property
    def never(self) -> tuple[IPv4Network, ...]:
        """Return what nobody reaches."""
        return (*NEVER, self.inside, self.outside)

    @property
    def closed(self) -> tuple[IPv4Network, ...]:
        """Return the private networks that stay closed."""
        return tuple(_without(PRIVATE, self.opened))

    def lets(self, address: IPv4Address) -> bool:
        """Return whether containers may reach an address at all."""
        return not any(address in network for network in (*self.never, *self.closed))

    def shut(self, network: IPv4Network) -> bool:
        """Return whether nothing of a network can be reached, so that listing it must be a mistake."""
        return any(network.subnet_of(each) for each in (*self.never, *self.closed))


def make_plan(inside_and_outside: str, opened: str = "") -> Plan:
    """Return the plan for a range of at least /20 and private networks in "10.0.0.0/8, 10.1.2.3".

    Raises: ValueError with a sentence.
    """
    whole = IPv4Network(inside_and_outside)
    if whole.prefixlen > 20:  # noqa: PLR2004 - two halves of at least 2,048 addresses
        raise ValueError(f"{whole}: a range of at least /20 is needed")
    inside, outside = whole.subnets()
    networks = tuple(IPv4Network(one.strip()) for one in opened.split(",") if one.strip())
    for network in networks:
        if any(network.overlaps(never) for never in (*NEVER, whole)):
            raise ValueError(f"{network}: this can't be opened to containers")
    return Plan(inside=inside, outside=outside, opened=networks)


def router_rules(plan: Plan) -> str:
    """Return the router's table. Interfaces of containers are called i and a number."""
    return f"""
table inet {TABLE} {{
  set never {{ type ipv4_addr; flags interval; {_elements(plan.never)} }}
  set closed {{ type ipv4_addr; flags interval; {_elements(plan.closed)} }}
  set platform {{ type ipv4_addr . inet_service; }}
  set held {{ type ipv4_addr; size 65535; flags dynamic; }}
  set hurried {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
  map listed {{ type ifname : verdict; }}

  chain input {{
    type filter hook input priority filter; policy drop;
    fib saddr . iif oif missing drop
    iifname "i*" ip daddr {plan.gateway} udp dport 53 accept
    iifname "i*" ip daddr {plan.gateway} tcp dport 53 accept
    iifname "i*" goto refused
  }}

  chain forward {{
    type filter hook forward priority filter; policy drop;
    meta nfproto != ipv4 drop
    fib saddr . iif oif missing drop
    tcp flags syn tcp option maxseg size set rt mtu
    ct state established,related accept
    ct state invalid drop
    oifname != "{UPLINK}" goto refused
    meta l4proto != {{ tcp, udp }} goto refused
    tcp dport 25 goto refused
    ip daddr @never goto refused
    ip daddr . th dport @platform goto refused
    ip daddr @closed goto refused
    add @held {{ ip saddr ct count over {CONNECTIONS_MAX} }} goto refused
    update @hurried {{ ip saddr limit rate over {CONNECTIONS_PER_S}/second burst {CONNECTIONS_BURST} packets }} drop
    iifname vmap @listed
    iifname "i*" accept
  }}

  chain refused {{
    counter
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}

  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{UPLINK}" masquerade
  }}
}}
"""


def list_rules(number: int, networks: Sequence[IPv4Network]) -> str:
    """Return what lets the container at interface i<number> reach only what is listed."""
    listed = _elements(tuple(ipaddress.collapse_addresses(networks)))
    return f"""
table inet {TABLE} {{
  set networks{number} {{ type ipv4_addr; flags interval; {listed} }}
  set answered{number} {{ type ipv4_addr; flags timeout; size {ANSWERED_MAX}; }}
  chain list{number} {{
    ip daddr @networks{number} accept
    ip daddr @answered{number} accept
    goto refused
  }}
}}
add element inet {TABLE} listed {{ "i{number}" : goto list{number} }}
"""


def unlist_rules(number: int) -> str:
    """Return what takes the list of a container away again."""
    return f"""
delete element inet {TABLE} listed {{ "i{number}" }}
delete chain inet {TABLE} list{number}
delete set inet {TABLE} networks{number}
delete set inet {TABLE} answered{number}
"""


def platform_rules(places: Iterable[tuple[IPv4Address, int]]) -> str:
    """Return what keeps containers away from the platform's own doors, wherever these are."""
    elements = ", ".join(sorted(f"{address} . {port}" for address, port in places))
    add = f"add element inet {TABLE} platform {{ {elements} }}\n" if elements else ""
    return f"flush set inet {TABLE} platform\n{add}"


def host_rules(
    table: str, uplink: str, router: IPv4Address, prefix: str, guarded: Sequence[str]
) -> str:
    """Return the host's table of one worker.

    Args:
        uplink: the host's interface to the router; those of all workers begin with `prefix`.
        router: the router's address on it.
        guarded: interfaces that forward only since a worker needed it: for its traffic and no other.
    """
    guards = "".join(f'    iifname "{name}" oifname != "{prefix}*" drop\n' for name in guarded)
    return f"""
table inet {table} {{
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{uplink}" ip saddr != {router} drop
    iifname "{uplink}" meta nfproto != ipv4 drop
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname "{uplink}" goto refused
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname "{uplink}" oifname "{prefix}*" goto refused
    iifname "{uplink}" ct status dnat goto refused
    oifname "{uplink}" ct state established,related accept
    oifname "{uplink}" drop
{guards}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {router} masquerade
  }}
  chain refused {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
}}
"""


def _elements(networks: Sequence[IPv4Network]) -> str:
    return f"elements = {{ {', '.join(map(str, networks))} }};" if networks else ""


def _without(
    networks: Iterable[IPv4Network], opened: Sequence[IPv4Network]
) -> Iterable[IPv4Network]:
    """Yield the networks less those opened."""
    left = list(networks)
    for hole in opened:
        left = [piece for network in left for piece in _less(network, hole)]
    return ipaddress.collapse_addresses(left)


def _less(network: IPv4Network, hole: IPv4Network) -> Iterable[IPv4Network]:
    if network.subnet_of(hole):
        return ()
    return network.address_exclude(hole) if hole.subnet_of(network) else (network,)
