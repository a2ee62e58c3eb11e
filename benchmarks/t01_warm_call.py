"""T1: a warm call through the SDK against a bare NATS echo, in the same run.

Ours: `f.remote(200 bytes)`: SDK → HTTP → gateway → memory stream → dispatcher → worker → runner and back,
with the outcome stored and every hop traced. Peers: nats-py + uvloop, echo through a JetStream memory
stream, and core request/reply. First step of the promise: at most 2.5 times the echo through the stream.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

from benchmarks.harness import (
    a_directory,
    a_platform,
    a_process,
    alternate,
    an_app,
    arguments,
    show,
    verdict,
)
from tests.support.nats import open_nats_server

PROMISE = 2.5
APP = """
from glowplug import function

@function(cpu=0.1, memory=64, keep_warm_seconds=120)
def echo(value):
    return value
"""


def main() -> int:
    options = arguments(__doc__)
    calls = 50 if options.quick else 300
    an_app(APP)
    with contextlib.ExitStack() as stack:
        stack.enter_context(a_platform())
        server = stack.enter_context(open_nats_server(a_directory("nats")))
        peer = [sys.executable, "-m", "benchmarks.peers.nats_echo"]
        stack.enter_context(a_process(*peer, "serve", server.url))
        askers = {
            way: stack.enter_context(a_process(*peer, "ask", server.url, way))
            for way in ("stream", "core")
        }
        from bench_app import echo  # type: ignore[import-not-found]

        payload = "x" * 200
        for _ in range(50):
            echo.remote(payload)

        def ours() -> list[float]:
            times = []
            for _ in range(calls):
                started = time.perf_counter()
                echo.remote(payload)
                times.append(time.perf_counter() - started)
            return times

        def theirs(way: str) -> list[float]:
            process = askers[way]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{calls}\n")
            process.stdin.flush()
            return list(json.loads(process.stdout.readline()))

        sides = alternate(
            {
                "glowplug f.remote": ours,
                "nats-py echo through a stream": lambda: theirs("stream"),
                "nats-py core request/reply": lambda: theirs("core"),
            },
            options.rounds,
        )
    show(sides, "nats-py echo through a stream")
    ratio = sides["glowplug f.remote"].p50 / sides["nats-py echo through a stream"].p50
    return verdict(
        f"a warm call costs at most {PROMISE} times a bare echo through a memory stream",
        ratio <= PROMISE,
        {"ratio": round(ratio, 2), "p50_us": round(sides["glowplug f.remote"].p50 * 1e6)},
    )


if __name__ == "__main__":
    sys.exit(main())
