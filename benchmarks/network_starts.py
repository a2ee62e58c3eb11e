"""How long a container's start waits for a network of its own: at most 3 ms. As root, with nftables."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from glowplug_contracts.reach import parse_reach
from glowplug_worker.access import Access, Granted
from glowplug_worker.networks import HostNetworks
from glowplug_worker.ports import Backend, Networks
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.network.own import open_own
from glowplug_worker.runtime.network.rules import make_plan

from benchmarks.harness import alternate, arguments, show, verdict
from tests.support.containers import open_container

PROMISE_MS = 3.0
# A worker starts containers now and then, not in a closed loop: meanwhile the next namespace is made.
BETWEEN_S = 0.05

HOST = Granted(access=Access.HOST)
INTERNET = Granted(access=Access.INTERNET)
LISTED = Granted(access=Access.LISTED, reach=parse_reach(["pypi.org", "203.0.113.0/24"]))


async def started(
    backend: Backend, networks: Networks, granted: Granted, directory: Path, waits: list[float]
) -> float:
    """Return the seconds from asking for a network until code runs; note those until it was there."""
    await asyncio.sleep(BETWEEN_S)
    began = time.perf_counter()
    attached = await networks.attach("ctr_bench", granted)
    waits.append(time.perf_counter() - began)
    fields = {
        "network": attached.network,
        "netns": attached.netns,
        "binds": attached.binds,
    }
    async with open_container(backend, directory, "say(1)", **fields) as inside:
        await inside.said()
        elapsed = time.perf_counter() - began
    await attached.close()
    return elapsed


@asynccontextmanager
async def open_both(place: Path) -> AsyncIterator[tuple[Backend, Networks]]:
    plan = make_plan("198.18.0.0/15")
    async with (
        asyncio.TaskGroup() as tasks,
        open_own(
            f"bench {os.getpid()}",
            plan,
            lambda work, name: tasks.create_task(work, name=name),
            place / "network",
        ) as networks,
    ):
        yield await choose_backend("bwrap", place / "data"), networks


def main() -> int:
    options = arguments(__doc__)
    times = 5 if options.quick else 20
    place = Path(tempfile.mkdtemp(prefix="glowplug-bench-", dir="/var/tmp"))
    place.chmod(0o755)
    with asyncio.Runner() as runner:
        opened = open_both(place)
        backend, own = runner.run(opened.__aenter__())
        numbers = iter(range(1 << 30))

        waits: dict[Access, list[float]] = {access: [] for access in Access}

        def side(networks: Networks, granted: Granted) -> list[float]:
            return [
                runner.run(
                    started(
                        backend,
                        networks,
                        granted,
                        place / f"c{next(numbers)}",
                        waits[granted.access],
                    )
                )
                for _ in range(times)
            ]

        sides = alternate(
            {
                "own network": lambda: side(own, INTERNET),
                "own network with a list": lambda: side(own, LISTED),
                "host's network": lambda: side(HostNetworks(), HOST),
            },
            options.rounds,
        )
        runner.run(opened.__aexit__(None, None, None))
    show(sides, "host's network")
    added = (sides["own network"].p50 - sides["host's network"].p50) * 1000
    waited = statistics.median(waits[Access.INTERNET]) * 1000
    return verdict(
        f"a start waits at most {PROMISE_MS} ms for a network of its own",
        waited <= PROMISE_MS,
        {
            "waited_ms": round(waited, 2),
            "waited_with_a_list_ms": round(statistics.median(waits[Access.LISTED]) * 1000, 2),
            "whole_start_added_ms": round(added, 2),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
