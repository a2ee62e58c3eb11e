"""Checks kept evidence again: `python -m faults.recheck DIR`, from the store as the campaign left it.

For a checker that has learned something, and for looking at a failed slice: its brokers are started alone on
their store, the records are read, and the checker says what it finds. Leftovers can't be seen again.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

from faults.campaign import evidence_of
from faults.checker import Verdict, check
from faults.fleet import find_nats_server
from faults.nats import Broker
from faults.watch import read_records


async def recheck(directory: Path) -> Verdict:
    """Return what the checker says of a slice's directory."""
    configs = sorted(directory.glob("broker-*.conf"))
    brokers = [
        subprocess.Popen([find_nats_server(), "-c", str(config)], stderr=subprocess.DEVNULL)
        for config in configs
    ]
    try:
        text = [config.read_text() for config in configs]
        ways = ",".join(re.search(r'listen: "([^"]+)"', one).group(1) for one in text)  # type: ignore[union-attr]
        user, password = re.search(  # type: ignore[union-attr]
            r'"user": "(tap)", "password": "(\w+)"', text[0]
        ).groups()
        async with Broker(ways, user, password).open() as broker:
            await broker.connected.wait()
            records = await read_records(broker)
    finally:
        for one in brokers:
            one.terminate()
            one.wait()
    return check(evidence_of(directory, records, [], []))


if __name__ == "__main__":
    verdict = asyncio.run(recheck(Path(sys.argv[1])))
    print(json.dumps({**verdict.figures, "violations": verdict.violations[:50]}, indent=1))
    sys.exit(1 if verdict.violations else 0)
