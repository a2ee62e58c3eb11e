"""Celery over Redis: a queue of no-ops that is as safe as ours, and as it comes.

python -m benchmarks.peers.celery_queue worker URL     a pool of two processes
python -m benchmarks.peers.celery_queue ask URL        reads "put N", "done N" or "one N", prints seconds, one line
"""

import os
import sys
import time

from celery import Celery

VERB, URL = sys.argv[1:3]
app = Celery("peer", broker=URL, backend=URL)
app.conf.update(
    # A task is given back when its worker dies, as ours is: the default acknowledges before it runs.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("CELERY_PREFETCH", "4")),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(value):
    return value


def ask():
    print("ready", flush=True)
    waiting = []
    for line in sys.stdin:
        what, number = line.split()
        number = int(number)
        started = time.perf_counter()
        if what == "put":
            waiting = [noop.delay(n) for n in range(number)]
        elif what == "done":
            assert [one.get(timeout=120) for one in waiting] == list(range(number))
        else:
            samples = []
            for n in range(number):
                began = time.perf_counter()
                assert noop.delay(n).get(timeout=60) == n
                samples.append(time.perf_counter() - began)
            print(*samples, flush=True)
            continue
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    if VERB == "worker":
        print("ready", flush=True)
        app.worker_main(["worker", "--concurrency=2", "--loglevel=CRITICAL", "--without-mingle"])
    else:
        ask()
