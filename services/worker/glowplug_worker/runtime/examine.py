"""What /proc says about a process from which containers are to be forked."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from glowplug_worker.safety import Facts

_PROC: Final = Path("/proc")
# Shared with nobody who writes: locale archives and the like are mapped read-only.
_SHARED_AND_WRITABLE: Final = "rw-s"


def examine(pid: int, known: Collection[int]) -> Facts:
    """Return the facts; `known` are the descriptors that it was given. Raises: OSError."""
    own = _PROC / str(pid)
    threads = os.listdir(own / "task")  # noqa: PTH208 - names only
    children = sum(len((own / "task" / each / "children").read_text().split()) for each in threads)
    held = [each for each in os.listdir(own / "fd") if int(each) not in known]  # noqa: PTH208
    files = [str((own / "fd" / each).readlink()) for each in held]
    shared, devices = [], []
    for line in (own / "maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(None, 5)
        path = fields[5] if len(fields) > 5 else ""  # noqa: PLR2004 - the path comes last, if any
        if fields[1] == _SHARED_AND_WRITABLE:
            shared.append(path or "without a name")
        if path.startswith("/dev/nvidia"):
            devices.append(path)
    return Facts(
        threads=len(threads),
        children=children,
        files=tuple(files),
        shared=tuple(shared),
        devices=tuple(devices),
    )


def processor_ticks(pid: int) -> int:
    """Return the processor time that a process has used, in clock ticks; 0 if it is gone."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        after = fields.rpartition(")")[2].split()
        return int(after[11]) + int(after[12])
    except (OSError, IndexError, ValueError):
        return 0
