"""Functions that get secrets."""

from __future__ import annotations

import os
from pathlib import Path

from glowplug import Secret, function

LIGHT = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 5}


@function(**LIGHT, secrets=[Secret.from_name("canary", required_keys=["CANARY"])])
def reads_it():
    return os.environ["CANARY"]


@function(**LIGHT, secrets=["canary"])
def length_of_it():
    seen = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    in_arguments = any(os.environ["CANARY"].encode() in one for one in seen)
    return len(os.environ["CANARY"]), in_arguments


@function(**LIGHT)
def has_none():
    return os.environ.get("CANARY", "")


@function(**LIGHT, secrets=[Secret.from_name("canary", required_keys=["CANARY", "MISSING"])])
def needs_more():
    return 1
