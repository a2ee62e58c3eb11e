"""Functions whose containers have something to do at their end, and one that runs until it is let go."""

from __future__ import annotations

import os
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


@function(**LIGHT, gpu="any", gpu_memory="8Gi")
def part_of_a_gpu():
    return os.environ["GLOWPLUG_GPUS"]


@function(**LIGHT, gpu="A10G", gpu_memory="12Gi")
def another_part():
    return os.environ["GLOWPLUG_GPUS"]


@task_queue(**LIGHT)
def waits(gate):
    print("waiting", flush=True)
    Queue(gate).get()
    print("done waiting")
