"""What /proc tells: who descends from whom, and who carries our mark."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def table() -> dict[int, int]:
    """Return every process's parent."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid`, parents first."""
    parents = table()
    found, line = [], [pid]
    while line:
        above = line.pop(0)
        below = [one for one, parent in parents.items() if parent == above]
        found += below
        line += below
    return found


def name_of(pid: int) -> str:
    """Return the first words of a command line."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words[:6]).decode(errors="replace")
    return ""


def command_of(pid: int) -> str:
    """Return a whole command line."""
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
    return ""


def is_runner(pid: int) -> bool:
    """Return whether a process is the Python in a container, not what holds it."""
    return "boot.py" in command_of(pid) and "bwrap" not in name_of(pid).split(" ")[0]


def marked(text: str) -> dict[int, str]:
    """Return the processes whose environment, arguments or directory hold `text`, but not ourselves."""
    found = {}
    for pid in table():
        if pid == os.getpid():
            continue
        for what in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                if text.encode() in Path(f"/proc/{pid}/{what}").read_bytes():
                    found[pid] = name_of(pid)
    return found
