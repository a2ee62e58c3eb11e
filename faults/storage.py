"""Faults of a disk: full to the last byte, and slow to the point where every sync takes a quarter of a second.

What is on it: the brokers' stores, and the data directories of all services.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from faults.fleet import Fleet

# The image cache keeps 512 MiB free; the file that holds the disk is sparse.
SIZE_MIB = 1024
PIECE = 1 << 16
LEFT_BLOCKS = 1024  # filled one by one, to the last byte
# Of all processes together; a sync of the file system takes some five.
WRITES_A_SECOND = 20
THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")


def can_drag() -> bool:
    """Return whether this kernel lets us slow a disk down."""
    return os.access(THROTTLE, os.W_OK)


@contextlib.contextmanager
def dragged(mount: Path) -> Iterator[None]:
    """Let the disk take only so many writes a second."""
    device = os.stat(mount).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    THROTTLE.write_text(f"{name} {WRITES_A_SECOND}")
    try:
        yield
    finally:
        THROTTLE.write_text(f"{name} 0")


async def fill_for(mount: Path, seconds: float) -> None:
    """Fill the disk; make room after a while."""
    ballast = fill(mount)
    await asyncio.sleep(seconds)
    ballast.unlink()


def fill(mount: Path) -> Path:
    """Fill the disk; return the file that does."""
    ballast = mount / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        room = os.statvfs(mount)
        os.posix_fallocate(file.fileno(), 0, (room.f_bfree - LEFT_BLOCKS) * room.f_frsize)
        file.seek(0, os.SEEK_END)
        while True:
            file.write(b"\0" * PIECE)
            file.flush()
    return ballast


def start_again(fleet: Fleet) -> None:
    """Do what `glowplug up` does, and an operator, once there is room.

    A broker froze what it could not write; a service that found no room as it started has said so and ended.
    """
    for part in fleet.of("broker"):
        part.kill()
    for part in fleet.parts.values():
        part.start()
