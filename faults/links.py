"""The processes between the parts: links to the brokers that can be made bad, and the recorder."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

from faults.hosts import CLIENT_PORT, ROUTE_PORT, Spread, three_hosts

Links = list[tuple[int, IO[bytes]]]


@contextlib.asynccontextmanager
async def open_recorder(file: Path, address: str = "127.0.0.1") -> AsyncIterator[str]:
    """Run the recorder; yield its host and port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.recorder", str(file), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    try:
        yield f"{address}:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def spread_out(
    stack: contextlib.AsyncExitStack,
) -> tuple[Spread, str, Links, dict[int, list[IO[bytes]]]]:
    """Make three hosts, and a proxy for each way from one to another.

    Returns them, the address in their middle, all links, and by host those that lead to or from it.
    """
    middle, hosts = stack.enter_context(three_hosts())
    links: Links = []
    islands: dict[int, list[IO[bytes]]] = defaultdict(list)
    ways: dict[int, dict[tuple[int, int], str]] = {CLIENT_PORT: {}, ROUTE_PORT: {}}
    for port, found in ways.items():
        for here, there in itertools.permutations(range(len(hosts)), 2):
            link = stack.enter_context(a_link(f"nats://{hosts[there].address}:{port}", middle))
            links.append(link)
            islands[here].append(link[1])
            islands[there].append(link[1])
            found[here, there] = f"{middle}:{link[0]}"
    return Spread(hosts, ways[ROUTE_PORT], ways[CLIENT_PORT]), middle, links, islands


@contextlib.contextmanager
def a_link(url: str, address: str = "127.0.0.1") -> Iterator[tuple[int, IO[bytes]]]:
    """Run a proxy before a broker; yield its port and where it takes orders."""
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.proxy", url.rpartition("/")[2], address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.stdin
    finally:
        process.kill()
        process.communicate()
