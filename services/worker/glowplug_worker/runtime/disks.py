"""A container's own disk: a file system with a bound on bytes and files, mounted nowhere on the host.

The worker makes it (a sparse file in the container's directory, unlinked at once, behind a loop device
that the kernel frees by itself) and mounts it detached: only a descriptor holds it, until the container
takes it into its own mount namespace. When both are gone, so is everything. Takes root and `mkfs.ext4`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import UnavailableError

from glowplug_worker.ports import Limits
from glowplug_worker.runtime.runtimes import which

MKFS: Final = "mkfs.ext4"
MKFS_S: Final = 60.0
INODES_MIN: Final = 256
# Less room than this is none: what is written is counted later than it is refused, by some 100 KiB.
_FULL_BYTES: Final = 1 << 20
_CONTROL: Final = "/dev/loop-control"
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CONFIG: Final = struct.Struct("=II5Q4I64s64s32s2Q8Q")
_AUTOCLEAR: Final = 4
_TRIES: Final = 16  # others take free loop devices, too
# System calls that libc has no names for; the same numbers on every architecture.
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_SET_FLAG: Final = 0
_SET_STRING: Final = 1
_CREATE: Final = 6
_CLOEXEC: Final = 1
_NOSUID_NODEV: Final = 0x2 | 0x4
_OPTIONS: Final = (
    "-q",
    "-F",
    "-m",
    "0",
    "-b",
    "4096",
    "-I",
    "256",
    "-O",
    "^has_journal,^resize_inode",
)


class Disk:
    """A detached file system; `fd` leads to it as long as it is open."""

    def __init__(self, fd: int, device: str = "") -> None:
        """Keep the descriptor; `device` is "major:minor" of what the file system lies on."""
        self.fd = fd
        self.device = device

    def used(self) -> tuple[int, int, bool]:
        """Return the bytes and files in it, and whether there is no room for more."""
        if self.fd < 0:
            return 0, 0, False
        stat = os.statvfs(self.fd)
        free = stat.f_bavail * stat.f_frsize
        full = free < _FULL_BYTES or stat.f_ffree == 0
        return (
            (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            stat.f_files - stat.f_ffree,
            full,
        )

    def close(self) -> None:
        """Let go of it. May be repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def why_none() -> str:
    """Return why this worker can't make disks, tried; "" where it can."""
    if os.geteuid() != 0:
        return "disks take a worker that is run by root"
    try:
        with tempfile.TemporaryDirectory(prefix="glowplug-disk-") as directory:
            make_disk(Path(directory), Limits(disk_bytes=1 << 23)).close()
    except UnavailableError as error:
        return error.message
    return ""


def make_disk(directory: Path, limits: Limits) -> Disk:
    """Make a disk; its file takes room in `directory`'s file system as it fills. Blocks.

    Raises: UnavailableError.
    """
    image = directory / "disk.img"
    try:
        with image.open("xb") as file:
            file.truncate(limits.disk_bytes)
        _format(image, limits)
        loop = _loop(image)
        try:
            return _mounted(f"/dev/loop{loop[0]}", _device(loop[1]))
        finally:
            os.close(loop[1])
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(
            "platform.unavailable", f"the container's disk can't be made: {error}"
        ) from error
    finally:
        image.unlink(missing_ok=True)


def _format(image: Path, limits: Limits) -> None:
    binary = which(MKFS)
    if binary is None:
        raise OSError(f"{MKFS} is not installed")
    count = max(INODES_MIN, limits.disk_inodes)
    subprocess.run(
        [binary, *_OPTIONS, "-N", str(count), str(image)],
        check=True,
        timeout=MKFS_S,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def _loop(image: Path) -> tuple[int, int]:
    """Put a file behind a free loop device; return its number and a descriptor that holds it."""
    with contextlib.ExitStack() as stack:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, control)
        backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, backing)
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            zeros = b""
            config = _LOOP_CONFIG.pack(
                backing, 4096, *[0] * 5, 0, 0, 0, _AUTOCLEAR, zeros, zeros, zeros, *[0] * 10
            )
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError:
                os.close(device)
                continue
            return number, device
    raise OSError("no loop device is free")


def _device(fd: int) -> str:
    number = os.fstat(fd).st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def _mounted(device: str, number: str) -> Disk:
    libc = ctypes.CDLL(None, use_errno=True)
    context = _call(libc, _FSOPEN, b"ext4", _CLOEXEC)
    try:
        _call(libc, _FSCONFIG, context, _SET_STRING, b"source", device.encode(), 0)
        # Room is taken when it is written to, not later: what statvfs says is so.
        _call(libc, _FSCONFIG, context, _SET_FLAG, b"nodelalloc", None, 0)
        _call(libc, _FSCONFIG, context, _CREATE, None, None, 0)
        fd = _call(libc, _FSMOUNT, context, _CLOEXEC, _NOSUID_NODEV)
    finally:
        os.close(context)
    top = f"/proc/self/fd/{fd}"
    os.chmod(top, 0o1777)  # noqa: PTH101, S103 - the container's /tmp, by its descriptor
    with contextlib.suppress(OSError):
        os.rmdir(f"{top}/lost+found")  # noqa: PTH106
    return Disk(fd, number)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
