"""The disks under files: what limits on reading and writing name. Found out from the kernel, never assumed.

Limits are for whole disks: a partition is told by its disk. What lies on no disk (memory, a network) has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SYS: Final = Path("/sys/dev/block")
_UPPER: Final = "upperdir="
_MOUNTS: Final = Path("/proc/self/mountinfo")


def disks_under(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the disks on which existing paths lie, as "major:minor", each once."""
    found = (disk_of(path.stat().st_dev) for path in paths if path.exists())
    return tuple(dict.fromkeys(each for each in found if each))


def disk_of(device: int) -> str:
    """Return the disk of a device number; "" where no disk is behind it."""
    if os.major(device) == 0:
        device = _source(device)
    name = f"{os.major(device)}:{os.minor(device)}"
    place = _SYS / name
    if not place.exists():
        return ""
    if (place / "partition").exists():
        return (place.resolve().parent / "dev").read_text(encoding="ascii").strip()
    return name


def _source(device: int) -> int:
    """Return the disk of a file system that has a number of its own (btrfs, overlay); 0 if there is none."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        if head.split()[2] != wanted:
            continue
        kind, source, options = [*tail.split(), "", ""][:3]
        try:
            if kind == "overlay":
                upper = [e.removeprefix(_UPPER) for e in options.split(",") if e.startswith(_UPPER)]
                return Path(upper[0]).stat().st_dev if upper else 0
            return Path(source).stat().st_rdev if source.startswith("/dev/") else 0
        except OSError:
            return 0
    return 0
