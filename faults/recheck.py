"""Checks kept evidence again: `python -m faults.recheck DIR`, from the store as the campaign left it.

For a checker that has learned something, and for looking at a failed slice: its brokers are started alone on
their store, the records are read, and the checker says what it finds. Leftovers can't be seen again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.campaign import evidence_of
from faults.checker import Verdict, check
from faults.fleet import find_nats_server, free_port
from faults.nats import Broker
from faults.nodes import behind, caught_up
from faults.watch import read_records


async def recheck(directory: Path) -> Verdict:
    """Return what the checker says of a slice's directory."""
    text = [config.read_text() for config in sorted(directory.glob("broker-*.conf"))]
    ports, routes = ([free_port() for _ in text] for _ in range(2))
    with tempfile.TemporaryDirectory() as there, contextlib.ExitStack() as stack:
        for number, one in enumerate(text):
            config = Path(there, f"broker-{number}.conf")
            config.write_text(on_loopback(one, number, ports, routes))
            stack.enter_context(_running([find_nats_server(), "-c", str(config)]))
        user, password = re.search(  # type: ignore[union-attr]
            r'"user": "(tap)", "password": "(\w+)"', text[0]
        ).groups()
        ways = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with Broker(ways, user, password).open() as broker:
            await broker.connected.wait()
            lacking = [] if await caught_up(broker) else await behind(broker)
            shards = range(max(1, len(list((directory / "nats").glob("n0/**/RECORDS_*")))))
            records = await read_records(broker, len(shards))
    return check(evidence_of(directory, records, [], lacking))


def on_loopback(config: str, number: int, ports: Sequence[int], routes: Sequence[int]) -> str:
    """Return a broker's configuration with addresses of here: its hosts may be gone."""
    others = ", ".join(
        f'"nats-route://127.0.0.1:{port}"' for to, port in enumerate(routes) if to != number
    )
    moved = re.sub(
        r'^listen: ".*"$', f'listen: "127.0.0.1:{ports[number]}"', config, flags=re.MULTILINE
    )
    moved = re.sub(
        r"^  listen: .*$", f"  listen: 127.0.0.1:{routes[number]}", moved, flags=re.MULTILINE
    )
    return re.sub(r"^  routes: .*$", f"  routes: [{others}]", moved, flags=re.MULTILINE)


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    verdict = asyncio.run(recheck(Path(sys.argv[1])))
    print(json.dumps({**verdict.figures, "violations": verdict.violations[:50]}, indent=1))
    sys.exit(1 if verdict.violations else 0)
