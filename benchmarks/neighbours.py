"""Neighbours: the latency of warm calls while other containers go beyond every limit, against alone.

The promise: beside containers that burn processors, eat memory, fill disks and start threads, each beyond its
limit, the median of a warm call stays within twice of what it is alone.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request

from benchmarks.harness import a_platform, alternate, an_app, arguments, show, timed, verdict

PROMISE = 2.0
CALLS = 200
OFFENDERS = ("burn", "eat", "fill", "start_threads")
APP = """
import threading, time
from glowplug import endpoint

@endpoint(cpu=1, keep_warm_seconds=600)
def hello() -> str:
    return "hello"

@endpoint(cpu=(0.1, 0.1), timeout=5)
def burn() -> str:
    until = time.monotonic() + 3
    while time.monotonic() < until: pass
    return ""

@endpoint(cpu=(0.1, 0.1), memory=64)
def eat() -> str:
    kept = []
    while True: kept.append(bytes(1 << 20))

@endpoint(cpu=(0.1, 0.1), ephemeral_disk=16)
def fill() -> str:
    with open("/tmp/large", "wb", buffering=0) as file:
        while True: file.write(bytes(1 << 20))

@endpoint(cpu=(0.1, 0.1))
def start_threads() -> str:
    waiting = threading.Event()
    try:
        while True: threading.Thread(target=waiting.wait, daemon=True).start()
    finally:
        waiting.set()
"""


def main() -> int:
    options = arguments(__doc__)
    file = an_app(APP)
    with a_platform() as (url, token):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", str(file)]
        subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)

        def post(name: str) -> None:
            request = urllib.request.Request(f"{url}/endpoint/{name}", b"{}", headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()

        def calls() -> list[float]:
            return [timed(lambda: post("hello")) for _ in range(CALLS)]

        def beside() -> list[float]:
            over = threading.Event()

            def offend(name: str) -> None:
                while not over.is_set():
                    try:
                        post(name)
                    except urllib.error.HTTPError as error:
                        error.close()  # it went beyond its limit

            offenders = [threading.Thread(target=offend, args=(name,)) for name in OFFENDERS]
            for each in offenders:
                each.start()
            try:
                return calls()
            finally:
                over.set()
                for each in offenders:
                    each.join()

        post("hello")
        sides = alternate({"beside offenders": beside, "alone": calls}, options.rounds)
    show(sides, "alone")
    ratio = sides["beside offenders"].p50 / sides["alone"].p50
    return verdict(
        f"beside offenders a warm call's median is at most {PROMISE} times that alone",
        ratio <= PROMISE,
        {"ratio": round(ratio, 2), "p50_ms": round(sides["beside offenders"].p50 * 1000, 2)},
    )


if __name__ == "__main__":
    sys.exit(main())
