"""Power loss: what a broker had acknowledged must be there when the machine comes back.

`python -m faults.power [--rounds N]`, as root: the store lies on an ext4 of its own (a loop mount). Under load,
the file system is shut down without a flush of its log (the ioctl that its own tests use): what no fsync
had brought to the disk is gone, as when the plug is pulled. Then the broker and every service are killed,
the file system is mounted again, all is started, and every acknowledged task must be there and end.
The control runs the same with the broker's default (a sync every two minutes): it must lose, or this proves nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from faults.campaign import await_healthy
from faults.disk import a_disk, why_not
from faults.fleet import TOKEN, Fleet
from faults.links import open_recorder
from faults.load import Load, cancel_all
from faults.nats import Broker
from faults.watch import TERMINAL, read_records

LOAD_S = 6.0
SUBMITTERS = 16
END_S = 60.0


async def run_round(
    directory: Path, sync: str, seed: int, load_s: float = LOAD_S
) -> dict[str, Any]:
    """Cut the power once; return how many acknowledged tasks were there afterwards, and ended."""
    effects = directory / "effects.jsonl"
    async with contextlib.AsyncExitStack() as stack:
        disk = stack.enter_context(a_disk(directory))
        recorder = await stack.enter_async_context(open_recorder(effects))
        fleet = Fleet(directory, replicas=1, store=disk.mount / "nats", sync=sync)
        stack.callback(fleet.kill)
        fleet.start()
        await await_healthy(fleet)
        load = Load(fleet.gateways, TOKEN, directory, seed, recorder)
        async with load.open():
            await load.deploy()
            # What made the deployments is old by now, as it would be; only tasks are at stake.
            os.sync()
            submitting = [
                asyncio.create_task(load.submit(lambda: True, 10**9)) for _ in range(SUBMITTERS)
            ]
            await asyncio.sleep(load_s)
            # Who was answered by now was answered before the cut.
            acknowledged = load.accepted
            disk.cut()
            fleet.kill()
            await cancel_all(submitting)
        accepted = [
            json.loads(line) for line in (directory / "accepted.jsonl").read_text().splitlines()
        ]
        accepted = accepted[:acknowledged]
        disk.detach()
        disk.attach()
        broker_part = fleet.of("broker")[0]
        broker_part.start()
        async with Broker(fleet.direct, *fleet.tap).open() as broker:
            async with asyncio.timeout(END_S):  # it may not have come up
                await broker.connected.wait()
            info = await broker.api("STREAM.INFO.RECORDS_0")
            there = await read_records(broker) if "error" not in info else {}
            lost = [one["id"] for one in accepted if one["id"] not in there]
            ended = -1
            if not lost:
                fleet.start()
                await await_healthy(fleet)
                ended = await _ended(broker, {one["id"] for one in accepted})
        await asyncio.to_thread(fleet.stop)
    return {"sync": sync, "acknowledged": len(accepted), "lost": len(lost), "ended": ended}


async def _ended(broker: Broker, names: set[str]) -> int:
    """Wait until all of these have ended; return how many have in time."""
    deadline = time.monotonic() + END_S
    while True:
        records = await read_records(broker)
        ended = sum(records[one].get("state", "accepted") in TERMINAL for one in names)
        if ended == len(names) or time.monotonic() > deadline:
            return ended
        await asyncio.sleep(0.5)


def main() -> int:
    """Run rounds and the control; return 1 if the promise or the control does not hold."""
    parser = argparse.ArgumentParser(prog="faults.power", description="Power loss under load.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    results = []
    for turn in range(options.rounds + 1):
        sync = "always" if turn < options.rounds else "2m"
        with tempfile.TemporaryDirectory(prefix="glowplug-power-") as directory:
            result = asyncio.run(run_round(Path(directory), sync, options.seed + turn))
        results.append(result)
        print(json.dumps(result), flush=True)
    kept = all(one["lost"] == 0 and one["ended"] == one["acknowledged"] for one in results[:-1])
    failed = results[-1]["lost"] > 0
    print(f"{'HOLDS' if kept else 'FAILS'}: nothing acknowledged is lost when the power goes")
    print(f"control with sync off {'loses, as it must' if failed else 'LOST NOTHING: no proof'}")
    return 0 if kept and failed else 1


if __name__ == "__main__":
    sys.exit(main())
