"""The loop inside: hears the number of an attempt, makes it in a child, says what came of it.

What it says is one JSON list a line: [outcome, words]. The outcome is "through", "held", "hung" or
"broken"; only the first and the second are verdicts.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import traceback

from . import (
    credentials,
    files,
    kernel,
    limits,
    mounts,
    namespaces,
    network,
    privileges,
    processes,
    sysfiles,
)
from .kit import Attempt, Held

WITHIN_S = 40
FAMILIES = (
    kernel.FAMILY,
    sysfiles.FAMILY,
    mounts.FAMILY,
    namespaces.FAMILY,
    privileges.FAMILY,
    processes.FAMILY,
    files.FAMILY,
    credentials.FAMILY,
    network.FAMILY,
    limits.FAMILY,
)
ATTEMPTS: tuple[Attempt, ...] = tuple(one for family in FAMILIES for one in family.attempts)


def tried(attempt: Attempt) -> tuple[str, str]:
    """Make an attempt here, and judge it."""
    try:
        found = attempt.act()
    except Held as held:
        return "held", str(held)
    except OSError as error:
        return "held", errno.errorcode.get(error.errno or 0, str(error))
    except MemoryError:
        return "held", "out of memory"
    except BaseException:  # noqa: BLE001 - whatever it is, it is told
        return "broken", traceback.format_exc(limit=-3)
    return "through", "" if found is None else repr(found)[:500]


def in_a_child(attempt: Attempt) -> tuple[str, str]:
    """Make an attempt in a child of its own session, and bury what it leaves."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.setsid()
        outcome = tried(attempt)
        os.write(writing, json.dumps(outcome).encode())
        os._exit(0)
    os.close(writing)
    readable, _, _ = select.select([reading], [], [], WITHIN_S)
    said = os.read(reading, 1 << 16) if readable else b""
    os.close(reading)
    if not readable:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not readable:
        return "hung", ""
    if not said:
        return "held", f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    outcome, words = json.loads(said)
    return outcome, words


def main(wire: int) -> None:
    """Serve until the other end is gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    buffer = b""
    while data := os.read(wire, 4096):
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            os.write(wire, json.dumps(answer(line, wire)).encode() + b"\n")
            bury()


def answer(line: bytes, wire: int) -> object:
    """Do what one line asks for."""
    if line == b"ping":
        return "pong"
    return facts(wire) if line == b"facts" else in_a_child(ATTEMPTS[int(line)])


def facts(wire: int) -> dict[str, object]:
    """Say what a container is, seen from inside."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    return {
        "caps": [int(status[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh", "Amb", "Bnd")],
        "no_new_privs": int(status["NoNewPrivs"]),
        "env": sorted(os.environ),
        "fds": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2, wire)],
        "other_fds": [
            n for n in range(3, 256) if n != wire and os.path.exists(f"/proc/self/fd/{n}")
        ],
        "pids": [int(n) for n in os.listdir("/proc") if n.isdecimal()],
        "home": os.listdir("/root") if os.access("/root", os.R_OK) else [],
        "etc": sorted(os.listdir("/etc")),
        "root": sorted(os.listdir("/")),
    }


def bury() -> None:
    """Reap what attempts left to us."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
