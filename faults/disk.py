"""A disk of one's own: an ext4 in a file, mounted, whose power can be cut and which can be filled. Needs root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH = 2
SIZE_MIB = 512


def why_not() -> str:
    """Return why power can't be cut here, or ""."""
    if os.geteuid() != 0:
        return "needs root: a loop mount and an ioctl on it"
    for program in ("mkfs.ext4", "losetup", "mount", "umount"):
        if not shutil.which(program):
            return f"{program} is missing"
    with tempfile.TemporaryDirectory() as directory:
        try:
            with a_disk(Path(directory)):
                pass
        except (OSError, subprocess.SubprocessError) as error:
            return f"a loop mount is refused here: {error}"
    return ""


class Disk:
    """An ext4 in a file, mounted, whose power can be cut."""

    def __init__(self, image: Path, mount: Path) -> None:
        self._image = image
        self._device = ""
        self.mount = mount

    def attach(self) -> None:
        """Mount it; its journal is replayed, as at a boot.

        By a new device each time: containers that started meanwhile may still hold the file system whose
        power was cut, and `mount -o loop` would give that one back.
        """
        made = subprocess.run(
            ["losetup", "--find", "--show", str(self._image)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._device = made.stdout.strip()
        try:
            subprocess.run(["mount", self._device, str(self.mount)], check=True)
        except subprocess.CalledProcessError:
            subprocess.run(["losetup", "--detach", self._device], check=True)
            raise

    def detach(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", str(self.mount)], check=True)
        subprocess.run(["losetup", "--detach", self._device], check=True)

    def cut(self) -> None:
        """Let nothing more reach the disk, and drop what has not."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)


@contextlib.contextmanager
def a_disk(directory: Path, size_mib: int = SIZE_MIB) -> Iterator[Disk]:
    """Make and mount a disk under a directory."""
    image, mount = directory / "disk.img", directory / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    disk = Disk(image, mount)
    disk.attach()
    try:
        yield disk
    finally:
        disk.detach()
