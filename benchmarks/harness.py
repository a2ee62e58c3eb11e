"""What the benchmarks share: alternating rounds, percentiles, a verdict, peers in their own processes.

A benchmark measures its sides in turn (A B A B …), so that a machine that slows down slows both; it prints
absolute values and the ratio of the medians, and ends with 1 if its promise does not hold.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROUNDS = 7
# What was killed leaves its control group within a second.
APART_TRIES = 20
APART_LOOK_S = 0.1


class Side:
    """One side's samples, in seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.samples: list[float] = []

    @property
    def p50(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def alternate(
    sides: Mapping[str, Callable[[], Sequence[float]]], rounds: int = ROUNDS
) -> dict[str, Side]:
    """Run the sides in turn, `rounds` times; each returns its samples in seconds."""
    found = {name: Side(name) for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].samples += measure()
    return found


def show(sides: Mapping[str, Side], against: str) -> None:
    """Print p50, p99 and the ratio to one side."""
    base = sides[against].p50
    print(f"{'':38}{'p50':>12}{'p99':>12}{'ratio':>9}   n")
    for side in sides.values():
        print(
            f"{side.name:38}{_time(side.p50):>12}{_time(side.p99):>12}"
            f"{side.p50 / base:>8.2f}x   {len(side.samples)}"
        )


def verdict(promise: str, held: bool | None, figures: Mapping[str, object]) -> int:  # noqa: FBT001
    """Print the promise, whether it holds (None: its peer is missing) and the figures."""
    word = {True: "HOLDS", False: "FAILS", None: "NOT MEASURED"}[held]
    print(f"{word}: {promise}")
    print(json.dumps({"promise": promise, "holds": held, **figures}))
    return 1 if held is False else 0


def arguments(description: str | None) -> argparse.Namespace:
    """Parse the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples: a smoke test, not a figure"
    )
    return parser.parse_args()


@contextlib.contextmanager
def a_platform(*extra: str) -> Iterator[tuple[str, str]]:
    """Start a platform of its own; point this process's SDK and children at it."""
    from glowplug_local.ephemeral import open_ephemeral

    directory = Path(tempfile.mkdtemp(prefix="glowplug-bench-"))
    try:
        with open_ephemeral(directory / "data", *extra) as (url, token):
            os.environ |= {
                "GLOWPLUG_URL": url,
                "GLOWPLUG_TOKEN": token,
                "GLOWPLUG_QUIET": "1",
                "XDG_CONFIG_HOME": str(directory / "config"),
            }
            yield url, token
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def apart() -> Iterator[str]:
    """Run what is started within in a control group that outweighs all else on the host, where that may be.

    So what other programs do at the time does not count. Yields in words whether it is so.
    """
    from glowplug_worker.runtime.cgroups import this_process

    found = [each for each in this_process() if "cpu" in each.controllers]
    if not found:
        yield "beside all else that runs here: this host shows no control groups of processors"
        return
    own = found[0].own
    group = own / f"glowplug-bench-{os.getpid()}"
    file, weight = ("cpu.shares", 262_144) if found[0].version == 1 else ("cpu.weight", 10_000)
    try:
        group.mkdir()
        (group / file).write_text(str(weight))
        (group / "cgroup.procs").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield f"beside all else that runs here: {error}"
        return
    try:
        yield "apart from all else that runs here"
    finally:
        (own / "cgroup.procs").write_text("0")
        for _ in range(APART_TRIES):
            if not _removed(group):
                time.sleep(APART_LOOK_S)


def _removed(group: Path) -> bool:
    """Remove a group and what is left below it; False while something still dies in there."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not group.exists()


@contextlib.contextmanager
def a_process(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """Start a peer; wait until it prints its first line; end it with the block."""
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # some peers leave their own children behind
        process.wait()


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that one call of `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def a_directory(what: str) -> Path:
    """Return a new directory that goes away with this process."""
    directory = Path(tempfile.mkdtemp(prefix=f"glowplug-{what}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def an_app(source: str) -> Path:
    """Write a small app into a project of its own and make it importable; return its file."""
    directory = a_directory("app")
    (directory / ".glowplugignore").touch()
    file = directory / "bench_app.py"
    file.write_text(source)
    sys.path.insert(0, str(directory))
    return file


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 0.1 else f"{seconds:,.3f} s"
