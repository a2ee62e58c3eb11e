"""T3: `.map` over 1,000 no-ops, results in order, against FastStream RPC and Ray, in the same run.

First step of the promise: ahead of both. Peers are measured where they are installed, or with the
interpreters that FASTSTREAM_PYTHON and RAY_PYTHON name.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from benchmarks.harness import (
    a_directory,
    a_platform,
    a_process,
    alternate,
    an_app,
    arguments,
    show,
    timed,
    verdict,
)
from tests.support.nats import open_nats_server

INPUTS = 1000
APP = """
from glowplug import QueueDepthAutoscaler, function

# As many containers as the peers have processes: what is measured is the way, not the scale-out.
@function(
    cpu=0.1,
    memory=64,
    keep_warm_seconds=120,
    autoscaler=QueueDepthAutoscaler(max_containers=2, tasks_per_container=500),
)
def noop(value):
    return value
"""


def main() -> int:
    options = arguments(__doc__)
    an_app(APP)
    with contextlib.ExitStack() as stack:
        stack.enter_context(a_platform())
        sides = {"glowplug map": ours}
        faststream = os.environ.get("FASTSTREAM_PYTHON", sys.executable)
        if has(faststream, "faststream"):
            server = stack.enter_context(open_nats_server(a_directory("nats")))
            peer = [faststream, "-m", "benchmarks.peers.faststream_map"]
            stack.enter_context(a_process(*peer, "serve", server.url))
            asker = stack.enter_context(a_process(*peer, "ask", server.url))
            sides["FastStream RPC gather"] = lambda: ask(asker)
        ray = os.environ.get("RAY_PYTHON", sys.executable)
        if has(ray, "ray"):
            mapper = stack.enter_context(a_process(ray, "-m", "benchmarks.peers.ray_map"))
            sides["Ray tasks"] = lambda: ask(mapper)
        for measure in sides.values():
            measure()
        found = alternate(sides, 3 if options.quick else options.rounds)
    show(found, "glowplug map")
    peers = {name: side for name, side in found.items() if name != "glowplug map"}
    ratios = {name: round(found["glowplug map"].p50 / side.p50, 3) for name, side in peers.items()}
    return verdict(
        f"a map over {INPUTS} no-ops is ahead of {' and '.join(peers) or 'its peers'}",
        all(ratio < 1 for ratio in ratios.values()) if peers else None,
        {"ms": round(found["glowplug map"].p50 * 1000, 1), "ratios": ratios},
    )


def ours() -> list[float]:
    from bench_app import noop  # type: ignore[import-not-found]

    def once() -> None:
        assert list(noop.map(range(INPUTS))) == list(range(INPUTS))

    return [timed(once)]


def ask(process: subprocess.Popen[str]) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{INPUTS}\n")
    process.stdin.flush()
    return [float(process.stdout.readline())]


def has(python: str, module: str) -> bool:
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0
    if not found:
        print(f"{module} is not installed for {python}: skipped")
    return found


if __name__ == "__main__":
    sys.exit(main())
