"""T18: `glowplug up` → ready < 3 s; `import glowplug` < 100 ms; `glowplug --help` < 300 ms."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import arguments, timed, verdict


def main() -> int:
    options = arguments(__doc__)
    times = 3 if options.quick else 7
    python = [sys.executable, "-c"]
    bare = statistics.median(timed(lambda: run(*python, "pass")) for _ in range(times))
    imported = statistics.median(
        timed(lambda: run(*python, "import glowplug")) for _ in range(times)
    )
    helped = statistics.median(
        timed(lambda: run(str(Path(sys.executable).with_name("glowplug")), "--help"))
        for _ in range(times)
    )
    ready = statistics.median(until_ready() for _ in range(times))
    figures = {
        "import_ms": round((imported - bare) * 1000),
        "help_ms": round(helped * 1000),
        "ready_s": round(ready, 2),
    }
    print(f"python -c pass {bare * 1000:.0f} ms; with import glowplug {imported * 1000:.0f} ms")
    held = imported - bare < 0.1 and helped < 0.3 and ready < 3.0
    return verdict("up is ready in < 3 s, import < 100 ms, --help < 300 ms", held, figures)


def until_ready() -> float:
    with tempfile.TemporaryDirectory(prefix="glowplug-bench-") as data:
        started = time.perf_counter()
        command = [sys.executable, "-m", "glowplug.cli.main", "up", "--json", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--no-profile", "--data", data], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "ready":
                break
        seconds = time.perf_counter() - started
        process.terminate()
        process.wait(60)
    return seconds


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
