"""T11: from no container to many that are ready, with and without templates, against as many `crun run` two at a time.

Promises: at most 1.25 times that; from a template at most half.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time

from benchmarks.harness import Side, a_platform, a_process, an_app, show, verdict
from benchmarks.t05_cold_start import TEMPLATE_S
from benchmarks.t06_template_start import Starts, asked

PLAIN, FORKED = 1.25, 0.5
COUNTS = (50, 300)
APP = """
import time
from glowplug import QueueDepthAutoscaler, function

MANY = QueueDepthAutoscaler(max_containers=400, tasks_per_container=1)

@function(cpu=0.001, memory=("8Mi", "128Mi"), keep_warm_seconds=0, autoscaler=MANY, concurrent_requests=1)
def forked(seconds: float) -> float:
    began = time.time()
    time.sleep(seconds)
    return began

@function(cpu=0.001, memory=("8Mi", "128Mi"), keep_warm_seconds=0, autoscaler=MANY, checkpoint_enabled=False)
def plain(seconds: float) -> float:
    began = time.time()
    time.sleep(seconds)
    return began
"""
# Each call holds its container for so long, so that every other needs another one.
HELD_S = {50: 6.0, 300: 25.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if shutil.which("crun") is None or os.geteuid() != 0:
        return verdict("scaling out against crun", None, {})
    file = an_app(APP)
    failed = 0
    with (
        a_platform() as (url, token),
        a_process(sys.executable, "-m", "benchmarks.peers.crun_true") as crun,
    ):
        import bench_app

        deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", str(file)]
        subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
        starts = Starts(url, token)
        for count in options.counts:
            sides = {name: Side(name) for name in ("forked", "plain", "crun")}
            for _ in range(options.rounds):
                for name in ("forked", "plain"):
                    function = getattr(bench_app, name)
                    for _ in range(2):  # after the second start there is a template
                        function(0.0)
                        starts.await_none()
                    time.sleep(TEMPLATE_S)
                    sides[name].samples.append(asyncio.run(scale_out(function, count)))
                    starts.await_none()
                sides["crun"].samples.append(asked(crun, count))
            show(sides, "crun")
            for name, promise in (("plain", PLAIN), ("forked", FORKED)):
                ratio = sides[name].p50 / sides["crun"].p50
                failed |= verdict(
                    f"0 → {count}, {name}: at most {promise} times as many crun run",
                    ratio <= promise,
                    {"ratio": round(ratio, 2), "seconds": round(sides[name].p50, 2)},
                )
    return failed


async def scale_out(function: object, count: int) -> float:
    """Call so many at once; return the seconds until the last began."""
    began = time.time()
    calls = [function.remote.aio(HELD_S.get(count, 10.0)) for _ in range(count)]  # type: ignore[attr-defined]
    return max(await asyncio.gather(*calls)) - began


if __name__ == "__main__":
    sys.exit(main())
