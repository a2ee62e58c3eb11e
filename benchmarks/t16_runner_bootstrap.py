"""T16: what the runner adds to a bare interpreter until it says hello: at most 25 ms, no third-party import."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import alternate, arguments, show, timed, verdict

PROMISE_MS = 25.0


def main() -> int:
    options = arguments(__doc__)
    boot = find_boot()
    times = 3 if options.quick else 10
    bare = [sys._base_executable, "-I", "-S", "-c", "pass"]
    sides = alternate(
        {
            "runner until hello": lambda: [until_hello(boot) for _ in range(times)],
            "python -I -S -c pass": lambda: [
                timed(lambda: subprocess.run(bare, check=True)) for _ in range(times)
            ],
        },
        options.rounds,
    )
    show(sides, "python -I -S -c pass")
    added = (sides["runner until hello"].p50 - sides["python -I -S -c pass"].p50) * 1000
    return verdict(
        f"the runner adds at most {PROMISE_MS} ms to a bare interpreter",
        added <= PROMISE_MS,
        {"added_ms": round(added, 1)},
    )


def find_boot() -> Path:
    spec = importlib.util.find_spec("glowplug")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "runner" / "boot.py"


def until_hello(boot: Path) -> float:
    ours, theirs = socket.socketpair()
    started = time.perf_counter()
    fd = theirs.fileno()
    process = subprocess.Popen(
        [sys._base_executable, "-I", "-S", str(boot), "--fds", str(fd)],
        pass_fds=[fd],
        env={**os.environ},
    )
    theirs.close()
    assert ours.recv(1)
    elapsed = time.perf_counter() - started
    ours.close()
    process.wait(10)
    return elapsed


if __name__ == "__main__":
    sys.exit(main())
