"""Functions that say what they reach."""

from __future__ import annotations

import socket
from pathlib import Path

from glowplug import function


def interfaces() -> list[str]:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return sorted(line.split(":")[0].strip() for line in lines if ":" in line)


def connects(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


@function(cpu=0.1)
def open_to_the_world(places):
    return interfaces(), [connects(host, port) for host, port in places]


@function(cpu=0.1, block_network=True)
def sealed_off(host, port):
    return interfaces(), connects(host, port)


@function(cpu=0.1, allow_list=["pypi.org"])
def listed():
    return interfaces()
