"""What a dead worker's containers may have left mounted: found below a directory, and taken away.

Only for directories whose lock the caller holds. Removing a directory that still has something mounted in
it would remove what is behind the mount (a volume's files), so this comes first, and says if it failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_LOOP_CLR_FD: Final = 0x4C01
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_BLOCK: Final = Path("/sys/block")


def unmount_below(directory: Path) -> bool:
    """Unmount everything below a directory, give loop devices back; return whether nothing is left."""
    for path in reversed(mounts_below(directory)):
        _LIBC.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    for device in loops_below(directory):
        with contextlib.suppress(OSError):
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CLR_FD)
            finally:
                os.close(fd)
    return not mounts_below(directory)


def mounts_below(directory: Path) -> list[str]:
    """Return where something is mounted at or below a directory, in the order it was mounted."""
    top = str(directory.resolve())
    found = []
    for line in _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        path = line.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        if path == top or path.startswith(f"{top}/"):
            found.append(path)
    return found


def loops_below(directory: Path) -> list[Path]:
    """Return the loop devices whose files lie below a directory, removed files included."""
    top = str(directory.resolve())
    found = []
    for backing in _BLOCK.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text(encoding="utf-8", errors="replace").startswith(f"{top}/"):
                found.append(Path("/dev", backing.parent.parent.name))
    return found
