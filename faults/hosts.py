"""Three hosts on one machine: network namespaces on a bridge, with a slow link between them. Needs root.

netem is not in every kernel, so the delay is our proxy's: brokers reach each other, and services reach the
brokers of other hosts, through one proxy per direction of a link.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import msgspec


class Host(msgspec.Struct, frozen=True):
    """A namespace: its name, its address, and what a command there begins with."""

    name: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """Return the words that make a command run there."""
        # Not `ip netns exec`: its private mount namespace would keep dead file systems alive.
        return ["nsenter", f"--net=/run/netns/{self.name}"]


class Spread(msgspec.Struct, frozen=True):
    """Where things are when a platform is spread over hosts.

    `routes` and `clients` say by which address host k reaches broker j's routes and clients: (k, j) → host:port.
    """

    hosts: list[Host]
    routes: dict[tuple[int, int], str]
    clients: dict[tuple[int, int], str]


# In a namespace of its own a port is nobody else's.
CLIENT_PORT = 4222
ROUTE_PORT = 6222
GATEWAY_PORT = 1994


def why_not() -> str:
    """Return why there can be no hosts here, or ""."""
    if os.geteuid() != 0:
        return "needs root: network namespaces and a bridge"
    for program in ("ip", "nsenter"):
        if not shutil.which(program):
            return f"{program} is missing"
    try:
        with three_hosts():
            pass
    except subprocess.CalledProcessError as error:
        return f"namespaces are refused here: {error.stderr!r}"
    return ""


@contextlib.contextmanager
def three_hosts() -> Iterator[tuple[str, list[Host]]]:
    """Make three hosts; yield the bridge's address and them."""
    number = os.getpid() % 200 + 20
    bridge = f"gpf{number}"
    middle = f"10.251.{number}.254"
    hosts = [Host(f"gpf{number}-{n}", f"10.251.{number}.{n + 1}") for n in range(3)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{middle}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for turn, host in enumerate(hosts):
            end = f"gpf{number}v{turn}"
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            _ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", end, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield middle, hosts


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
