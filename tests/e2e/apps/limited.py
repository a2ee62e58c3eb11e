"""Functions that go beyond each limit; run as a program it calls them and prints what came of it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from glowplug import function

MIB = 1024 * 1024


@function(cpu=0.1, memory=96)
def eat():
    kept = []
    while True:
        kept.append(bytes(MIB))


@function(cpu=0.1, ephemeral_disk=16)
def fill():
    with open("/tmp/large", "wb", buffering=0) as file:  # noqa: PTH123
        while True:
            file.write(bytes(MIB))


@function(cpu=0.1)
def start_threads():
    waiting = threading.Event()
    try:
        while True:
            threading.Thread(target=waiting.wait, daemon=True).start()
    finally:
        waiting.set()


@function(cpu=(0.2, 0.2), timeout=2)
def spin():
    while True:
        pass


@function(cpu=0.1)
def leave():
    print("goodbye", flush=True)
    os._exit(7)


@function(cpu=0.1, concurrent_requests=4, memory=128)
def neighbour(number):
    time.sleep(0.01)
    return number * 2


def outcome(call):
    try:
        return {"value": call()}
    except Exception as error:  # noqa: BLE001
        return {
            "types": [one.__name__ for one in type(error).__mro__],
            "details": getattr(error, "details", {}),
            "errno": getattr(error, "errno", None),
            "notes": getattr(error, "__notes__", []),
        }


def main() -> None:
    # The crash of one container says nothing of what another one runs.
    running = [neighbour.spawn(number) for number in range(8)]
    asked = (leave, eat, fill, start_threads, spin)
    with ThreadPoolExecutor(len(asked)) as pool:
        calls = {each.__name__: pool.submit(outcome, each.remote) for each in asked}
    found = {name: call.result() for name, call in calls.items()}
    found["neighbours"] = [one.get() for one in running]
    json.dump(found, sys.stdout, default=str)


if __name__ == "__main__":
    main()
