"""Functions whose containers have something to do at their end, and one that runs until it is let go."""

from __future__ import annotations

import subprocess
import sys

from glowplug import Queue, function, task_queue

LIGHT = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 600}


def opened():
    return "the connection"


def closed(connection):
    print(f"closing {connection}")


@function(**LIGHT, on_start=opened, on_exit=closed)
def leaves(text):
    print(f"called with {text}")
    subprocess.run([sys.executable, "-c", "print('from a child process')"], check=True)
    return text


@task_queue(**LIGHT)
def waits(gate):
    print("waiting", flush=True)
    Queue(gate).get()
    print("done waiting")
