"""The task queue beside Celery over Redis, in the same run: throughput and latency of no-ops.

Both keep an accepted task through a kill -9: ours fsyncs before it answers, Redis is run with an append-only
file that is fsynced at every write, and Celery acknowledges late. Redis as it comes (nothing fsynced) is measured
as well. CELERY_PYTHON names an interpreter that has celery[redis]; redis-server is looked for on PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.harness import (
    Side,
    a_directory,
    a_platform,
    a_process,
    an_app,
    arguments,
    verdict,
)
from benchmarks.t03_map import has
from tests.support.nats import free_port

TASKS = 1000
ONE_BY_ONE = 60
APP = """
from glowplug import QueueDepthAutoscaler, task_queue

# As many containers as Celery has processes.
@task_queue(
    cpu=0.1,
    memory=64,
    keep_warm_seconds=120,
    autoscaler=QueueDepthAutoscaler(max_containers=2, tasks_per_container=500),
)
def noop(value):
    return value
"""


class Figures:
    """One side: seconds until all were accepted, until all had results, and of single tasks."""

    def __init__(self, name: str) -> None:
        self.put, self.all, self.one = Side(name), Side(name), Side(name)

    def show(self) -> dict[str, float]:
        figures = {
            "accepted_per_s": round(TASKS / self.put.p50),
            "done_per_s": round(TASKS / self.all.p50),
            "one_p50_ms": round(self.one.p50 * 1000, 2),
            "one_p99_ms": round(self.one.p99 * 1000, 2),
        }
        print(
            f"{self.put.name:34} accepted {figures['accepted_per_s']:6,}/s   "
            f"done {figures['done_per_s']:6,}/s   "
            f"one at a time p50 {figures['one_p50_ms']:6.2f} ms  p99 {figures['one_p99_ms']:6.2f} ms"
        )
        return figures


def main() -> int:
    options = arguments(__doc__)
    rounds = 2 if options.quick else options.rounds
    an_app(APP)
    with contextlib.ExitStack() as stack:
        stack.enter_context(a_platform())
        sides = {"glowplug task queue": ours}
        python = os.environ.get("CELERY_PYTHON", sys.executable)
        if not shutil.which("redis-server"):
            print("redis-server is not on PATH: skipped")
        elif has(python, "celery") and has(python, "redis"):
            for name, sync in (
                ("Celery + Redis, fsynced", "always"),
                ("Celery + Redis, as is", ""),
            ):
                url = stack.enter_context(a_redis(sync))
                peer = [python, "-m", "benchmarks.peers.celery_queue"]
                stack.enter_context(a_process(*peer, "worker", url))
                asker = stack.enter_context(a_process(*peer, "ask", url))
                sides[name] = lambda asker=asker: celery(asker)
        found = {name: Figures(name) for name in sides}
        for measure in sides.values():
            measure()  # warm
        for _ in range(rounds):
            for name, measure in sides.items():
                put, done, ones = measure()
                found[name].put.samples.append(put)
                found[name].all.samples.append(done)
                found[name].one.samples += ones
    figures = {name: side.show() for name, side in found.items()}
    ours_, peer = figures["glowplug task queue"], figures.get("Celery + Redis, fsynced")
    ahead = (
        None
        if peer is None
        else (ours_["done_per_s"] > peer["done_per_s"] and ours_["one_p50_ms"] < peer["one_p50_ms"])
    )
    return verdict(
        "the task queue is ahead of Celery + Redis in throughput and latency", ahead, figures
    )


def ours() -> tuple[float, float, list[float]]:
    from bench_app import noop  # type: ignore[import-not-found]

    started = time.perf_counter()
    tasks = put_all(noop)
    accepted = time.perf_counter()
    assert [task.result(timeout=120) for task in tasks] == list(range(TASKS))
    ended = time.perf_counter()
    ones = []
    for number in range(ONE_BY_ONE):
        began = time.perf_counter()
        assert noop.put(number).result(timeout=60) == number
        ones.append(time.perf_counter() - began)
    return accepted - started, ended - started, ones


def put_all(queue: object) -> list:
    """Submit them as a user with many would. (Celery has no such call: `group` sends one by one, too.)"""
    return list(queue.put_many(range(TASKS)))


def celery(asker: subprocess.Popen[str]) -> tuple[float, float, list[float]]:
    put = float(_ask(asker, f"put {TASKS}"))
    done = put + float(_ask(asker, f"done {TASKS}"))
    return put, done, [float(one) for one in _ask(asker, f"one {ONE_BY_ONE}").split()]


def _ask(asker: subprocess.Popen[str], line: str) -> str:
    assert asker.stdin is not None
    assert asker.stdout is not None
    asker.stdin.write(line + "\n")
    asker.stdin.flush()
    return asker.stdout.readline()


@contextlib.contextmanager
def a_redis(sync: str) -> Iterator[str]:
    port, directory = free_port(), a_directory("redis")
    options = ["--appendonly", "yes", "--appendfsync", sync] if sync else []
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--dir", str(directory), "--bind", "127.0.0.1",
         "--loglevel", "warning", *options],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
