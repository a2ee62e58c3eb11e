"""T2: a warm HTTP endpoint against bare aiohttp and LitServe, in the same run.

First step of the promise: ahead of LitServe on both latency (one connection) and requests a second (32
connections). LitServe is measured where it is installed, or with the interpreter that LITSERVE_PYTHON names.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from benchmarks.harness import (
    Side,
    a_platform,
    a_process,
    alternate,
    an_app,
    arguments,
    show,
    verdict,
)

APP = """
from glowplug import QueueDepthAutoscaler, endpoint

@endpoint(cpu=0.1, memory=64, keep_warm_seconds=120, concurrent_requests=32, max_pending_tasks=1000)
async def echo(value: str) -> dict:
    return {"value": value}
"""


def main() -> int:
    options = arguments(__doc__)
    alone, crowd = (50, 500) if options.quick else (300, 3000)
    file = an_app(APP)
    with contextlib.ExitStack() as stack:
        url, token = stack.enter_context(a_platform())
        deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", str(file)]
        subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
        targets = {"glowplug endpoint": (urlsplit(url).port or 0, "/endpoint/echo")}
        bare = stack.enter_context(a_process(sys.executable, "-m", "benchmarks.peers.http_echo"))
        targets["bare aiohttp + uvloop"] = (int(bare.first_line), "/echo")
        other = os.environ.get("LITSERVE_PYTHON", sys.executable)
        if subprocess.run([other, "-c", "import litserve"], capture_output=True).returncode == 0:
            lit = stack.enter_context(a_process(other, "-m", "benchmarks.peers.litserve_echo"))
            targets["LitServe"] = (int(lit.first_line), "/predict")
        else:
            print(
                "LitServe is not installed: skipped (LITSERVE_PYTHON names an interpreter that has it)"
            )
        loads = {
            name: stack.enter_context(
                a_process(sys.executable, "-m", "benchmarks.peers.load", str(port), path, token)
            )
            for name, (port, path) in targets.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in targets}

        def measure(name: str) -> Callable[[], list[float]]:
            def once() -> list[float]:
                times = ask(loads[name], 1, alone)["times"]
                crowded = ask(loads[name], 32, crowd)
                rates[name].append(crowd / crowded["seconds"])
                return times

            return once

        for process in loads.values():
            ask(process, 32, 200)
        sides = alternate({name: measure(name) for name in targets}, options.rounds)
    show(sides, "bare aiohttp + uvloop")
    median = {name: sorted(found)[len(found) // 2] for name, found in rates.items()}
    for name, rate in median.items():
        print(f"{name:38}{rate:>10,.0f} requests/s at 32 connections")
    return _verdict(sides, median)


def _verdict(sides: dict[str, Side], rates: dict[str, float]) -> int:
    ours, bare, lit = "glowplug endpoint", "bare aiohttp + uvloop", "LitServe"
    figures: dict[str, object] = {
        "p50_ratio_to_bare": round(sides[ours].p50 / sides[bare].p50, 2),
        "rate_ratio_to_bare": round(rates[ours] / rates[bare], 2),
    }
    if lit not in sides:
        return verdict("a warm endpoint is ahead of LitServe", held=None, figures=figures)
    figures["p50_ratio_to_litserve"] = round(sides[ours].p50 / sides[lit].p50, 2)
    figures["rate_ratio_to_litserve"] = round(rates[ours] / rates[lit], 2)
    held = sides[ours].p50 < sides[lit].p50 and rates[ours] > rates[lit]
    return verdict("a warm endpoint is ahead of LitServe on latency and rate", held, figures)


def ask(process: subprocess.Popen[str], connections: int, requests: int) -> dict[str, list[float]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{connections} {requests}\n")
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


if __name__ == "__main__":
    sys.exit(main())
