"""Neighbours: the latency of warm calls while other containers go beyond every limit, against alone.

The promise: beside containers that burn processors, eat memory, fill disks and start threads, each beyond its
limit and again and again, the median of a warm call is at most so many times what it is alone. Being alone is
measured before and after, which shows the noise; the control is the same code without limits, which shows that it
is the limits that help.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter

from benchmarks.harness import a_platform, alternate, an_app, apart, arguments, show, timed, verdict

PROMISE = 1.5
CALLS = 200
# What each offender is held to, and what it is told beyond; burning is never refused, only withheld.
LIMITS = {
    "burn": "cpu=(0.1, 0.1)",
    "eat": "cpu=(0.1, 0.1), memory=64",
    "fill": "cpu=(0.1, 0.1), ephemeral_disk=16",
    "start_threads": "cpu=(0.1, 0.1)",
}
TOLD = {
    "burn": "",
    "eat": "OutOfMemoryError",
    "fill": "OSError",
    "start_threads": "RuntimeError",
}
FREE = dict.fromkeys(LIMITS, "cpu=1")
APP = """
import threading, time
from glowplug import endpoint

@endpoint(cpu=1, keep_warm_seconds=600)
def hello() -> str:
    return "hello"
"""
OFFENDERS = """
@endpoint({burn})
def burn{suffix}() -> str:
    until = time.monotonic() + 1
    while time.monotonic() < until: pass
    return ""

@endpoint({eat})
def eat{suffix}() -> str:
    kept = [b"x" * (1 << 20) for _ in range(256)]
    return ""

@endpoint({fill})
def fill{suffix}() -> str:
    with open("/tmp/large", "wb", buffering=0) as file:
        for _ in range(64): file.write(bytes(1 << 20))
    return ""

@endpoint({start_threads})
def start_threads{suffix}() -> str:
    waiting = threading.Event()
    try:
        for _ in range({threads}): threading.Thread(target=waiting.wait, daemon=True).start()
    finally:
        waiting.set()
    return ""
"""
# What a worker lets a container have; beyond it, and as many as go without.
PIDS, THREADS_TOO_MANY, THREADS = 256, 400, 200


def an_app_of_all() -> str:
    """Return the app: who is measured, who offends, and the same without limits."""
    limited = OFFENDERS.format(**LIMITS, suffix="", threads=THREADS_TOO_MANY)
    return APP + limited + OFFENDERS.format(**FREE, suffix="_free", threads=THREADS)


class Caller:
    """Calls endpoints, and notes what the offenders were told."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.told: Counter[tuple[str, str]] = Counter()

    def post(self, name: str) -> None:
        request = urllib.request.Request(f"{self._url}/endpoint/{name}", b"{}", self._headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def calls(self) -> list[float]:
        """Return how long each of some warm calls took."""
        return [timed(lambda: self.post("hello")) for _ in range(CALLS)]

    def beside(self, suffix: str = "") -> list[float]:
        """Return the same, while every offender is called again and again."""
        over = threading.Event()

        def offend(name: str) -> None:
            while not over.is_set():
                try:
                    self.post(name + suffix)
                    self.told[name + suffix, ""] += 1
                except urllib.error.HTTPError as error:
                    with error:
                        self.told[name + suffix, json.load(error)["error"]["type"]] += 1

        offenders = [threading.Thread(target=offend, args=(name,)) for name in LIMITS]
        for each in offenders:
            each.start()
        try:
            return self.calls()
        finally:
            over.set()
            for each in offenders:
                each.join()


def main() -> int:
    options = arguments(__doc__)
    file = an_app(an_app_of_all())
    os.environ["GLOWPLUG_WORKER_PIDS"] = str(PIDS)
    with apart() as where, a_platform() as (url, token):
        print(where)
        deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", str(file)]
        subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
        caller = Caller(url, token)
        caller.calls()  # the first ones are no warm ones
        sides = alternate(
            {
                "alone": caller.calls,
                "beside offenders": caller.beside,
                "alone again": caller.calls,
                "the same without limits": lambda: caller.beside("_free"),
            },
            options.rounds,
        )
    show(sides, "alone")
    missing = [name for name, told in TOLD.items() if not caller.told[name, told]]
    alone = statistics.median(sides["alone"].samples + sides["alone again"].samples)
    ratio, noise, control = (
        sides[name].p50 / alone
        for name in ("beside offenders", "alone again", "the same without limits")
    )
    return verdict(
        f"beside offenders a warm call's median is at most {PROMISE} times that alone",
        ratio <= PROMISE and not missing,
        {
            "ratio": round(ratio, 2),
            "alone_again": round(noise, 2),
            "without_limits": round(control, 2),
            "p50_ms": round(sides["beside offenders"].p50 * 1000, 2),
            "offences": {name: caller.told[name, told] for name, told in TOLD.items()},
            "did_not_offend": missing,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
