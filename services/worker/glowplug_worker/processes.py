"""What /proc says about process trees: who belongs to one, since when, and how much memory it uses."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")
_KIB = 1024


def start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 if it is gone.

    Pid and start together name a process for ever: pids come back, starts do not.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def parent_of(pid: int) -> int:
    """Return the parent's pid; 0 if the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def tree(pid: int) -> list[int]:
    """Return the process and everything below it, parents first."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir(PROC):  # noqa: PTH208 - names only, and often
        if entry.isdigit() and (fields := _stat(int(entry))):
            children[int(fields[1])].append(int(entry))
    found, at = [pid], 0
    while at < len(found):
        found += children[found[at]]
        at += 1
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL a process and everything below it."""
    for each in tree(pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def tree_pss_bytes(pid: int) -> int:
    """Return the tree's proportional memory: shared pages count once over all who share them.

    Where the kernel does not let us look, the resident size stands in (it counts shared pages fully).
    """
    return sum(_pss_bytes(each) for each in _tree_now(pid))


def _tree_now(pid: int) -> list[int]:
    """Return the tree as far as the kernel lists children: cheap, and may miss one that comes or goes."""
    found = [pid]
    for each in found:  # it grows
        threads = PROC / str(each) / "task"
        with contextlib.suppress(OSError):
            for thread in os.listdir(threads):  # noqa: PTH208 - names only, and often
                found += map(int, (threads / thread / "children").read_text().split())
    return found


def _pss_bytes(pid: int) -> int:
    try:
        with (PROC / str(pid) / "smaps_rollup").open() as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * _KIB
    except OSError:
        pass
    try:
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the command, the state first."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return []
    return text.rpartition(")")[2].split()
