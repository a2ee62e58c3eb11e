"""Is the host as it was? Looked at after every attempt, by reading a few dozen files.

Only what nothing else on a busy machine changes meanwhile is compared.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

WATCHED = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/kptr_restrict",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/tainted",
    "/proc/sys/kernel/threads-max",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/swappiness",
    "/proc/sys/fs/file-max",
    "/proc/sys/fs/protected_symlinks",
    "/proc/irq/default_smp_affinity",
    "/proc/swaps",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)
STATED = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/ld.so.cache", "/usr/bin/env")
NO_FILES = ("/etc/ld.so.preload", "/glowplug-test", "/usr/glowplug-test")
# A clock that was set is off by more than any scheduling makes of two readings.
CLOCK_S = 5.0


class Host:
    """What the host looked like before."""

    def __init__(self, *own: Path) -> None:
        """Watch the host, and the trees `own`: what the containers share and must not change."""
        self._own = own
        self._before = self._look()
        self._clock = time.time() - time.monotonic()

    def changes(self) -> list[str]:
        """Return in words what is not as it was."""
        now = self._look()
        found = [
            f"{name}: {self._before.get(name)!r} is now {now.get(name)!r}"
            for name in sorted(self._before.keys() | now.keys())
            if self._before.get(name) != now.get(name)
        ]
        if abs(time.time() - time.monotonic() - self._clock) > CLOCK_S:
            found.append("the clock was set")
        return found

    def _look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {path: _text(path) for path in WATCHED}
        seen |= {path: _stat(path) for path in STATED}
        seen |= {path: _stat(path) for path in NO_FILES}
        for top in self._own:
            for folder, folders, files in os.walk(top):
                for name in (*folders, *files):
                    seen[f"{folder}/{name}"] = _stat(f"{folder}/{name}")
        return seen


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def _stat(path: str) -> tuple[int, ...] | None:
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    kept = (found.st_mode, found.st_uid, found.st_nlink, found.st_ino)
    return (*kept, found.st_size, found.st_mtime_ns)


def processes_with(mark: str) -> list[int]:
    """Return the processes of the host whose environment holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(entry.name)] if state not in "ZX" else []
            except OSError:
                continue
    return found
