"""A folder of pulled layers for this process alone, though replicas share the data directory.

    layers/<number>/     blobs by digest, and what broke off of others; `lock` says that it is taken

A lock that ends with its process: who comes next goes on with what a killed one left. Blocks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import UnavailableError

from glowplug_imagecache.registry.downloads import PART

FOLDERS_MAX: Final = 64
_LOCK: Final = "lock"


class LayerFolder:
    """The first folder below `root` that nobody has; closed again by `close`."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(FOLDERS_MAX):
            path = root / str(number)
            path.mkdir(exist_ok=True, mode=0o700)
            lock = _take(path)
            if lock is not None:
                self.path, self._lock = path, lock
                return
        raise UnavailableError(
            "platform.unavailable", f"{FOLDERS_MAX} imagecaches share {root}; that is one too many"
        )

    def close(self) -> None:
        """Leave it to others."""
        os.close(self._lock)

    def check_room(self, size: int, free_bytes_min: int) -> None:
        """Raise UnavailableError (registry.no_room) where layers of `size` bytes would fill the disk."""
        free = self.free_bytes()
        if free - size < free_bytes_min:
            raise UnavailableError(
                "registry.no_room",
                f"imagecache's disk has {free} bytes free: the image's layers need {size}, and "
                f"{free_bytes_min} are kept free",
            )

    def free_bytes(self) -> int:
        """Return what its disk has free."""
        return shutil.disk_usage(self.path).free

    def sweep(self, before: float, in_use: Container[str] = frozenset()) -> int:
        """Remove what nobody has used since `before` (Unix time); return how many.

        Args:
            in_use: names of blobs' files that stay; what broke off of them stays, too.
        """
        return _sweep(self.path, before, in_use)

    def sweep_others(self, before: float) -> int:
        """Do so in folders of processes that have ended."""
        removed = 0
        for path in self.path.parent.iterdir():
            if path == self.path or not path.is_dir() or (lock := _take(path)) is None:
                continue
            try:
                removed += _sweep(path, before, frozenset())
            finally:
                os.close(lock)
        return removed


def _take(path: Path) -> int | None:
    """Return the descriptor of a folder's lock, None where somebody has it."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _sweep(folder: Path, before: float, in_use: Container[str]) -> int:
    removed = 0
    for path in folder.iterdir():
        if path.name == _LOCK or path.name.removesuffix(PART) in in_use:
            continue
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def touch(path: Path, now: float) -> None:
    """Note that a layer was used."""
    os.utime(path, (now, now))
