"""How much a volume may hold, as far as the gateway has a say: what is uploaded through it.

Containers write to the same directories past every gateway, and no kernel quota holds them: their files count
here, and keep more from being uploaded, but nothing stops them. What a volume holds is found by walking it; a
walk is good for USAGE_KEPT_S, and what this gateway has let in since then is added to it.

Blocking; the routes run it in threads.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from glowplug_contracts.errors import QuotaExceededError

USAGE_KEPT_S: Final = 10.0
# Files that a walk looks at; a volume with more counts as holding just these.
WALKED_MAX: Final = 1_000_000
# Uploads go no deeper; what containers have put deeper is not counted.
DEPTH_MAX: Final = 32
# Uploads never take the last of the disk, which the broker writes to as well.
FREE_BYTES_MIN: Final = 256 * 1024 * 1024
_INSUFFICIENT_STORAGE: Final = 507


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a volume. `complete`: every file was counted."""

    files: int = 0
    bytes: int = 0
    complete: bool = True


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume may hold; 0 = no bound but the disk's."""

    files_max: int = 0
    bytes_max: int = 0

    @property
    def bounds(self) -> bool:
        """Whether there is any bound."""
        return self.files_max > 0 or self.bytes_max > 0


def check_room(name: str, quota: Quota, usage: Usage, replaced: int | None) -> None:
    """Raise QuotaExceededError (volume.full) where a volume holds more than it may.

    Args:
        name: of the volume.
        quota, usage: what it may hold, and would hold with what is to be written.
        replaced: size of the file that goes when that stands; None where there is none.
    """
    goes = (0, 0) if replaced is None else (1, replaced)
    if 0 < quota.files_max < usage.files - goes[0]:
        raise full(f"volume {name} may have {quota.files_max} files; there is no room for another")
    if 0 < quota.bytes_max < usage.bytes - goes[1]:
        raise full(f"volume {name} may have {quota.bytes_max} bytes; there is no room for so many")


def full(message: str) -> QuotaExceededError:
    """Return the error for what has no room, as 507."""
    error = QuotaExceededError("volume.full", message)
    error.http_status = _INSUFFICIENT_STORAGE
    return error


class Quotas:
    """What volumes hold, known for a while; one for all of them."""

    def __init__(self, quota: Quota, now: Callable[[], float]) -> None:
        self.quota = quota
        self._now = now
        self._known: dict[str, tuple[float, Usage]] = {}
        self._lock = threading.Lock()

    def usage(self, folder: Path, *, fresh: bool = False) -> Usage:
        """Return what a volume's folder holds."""
        key = str(folder)
        with self._lock:
            at, known = self._known.get(key, (0.0, Usage()))
        if not fresh and key in self._known and self._now() - at < USAGE_KEPT_S:
            return known
        found = walked(folder)
        with self._lock:
            self._known[key] = self._now(), found
        return found

    def claim(self, folder: Path, name: str, replaced: int | None) -> Claim:
        """Count a file that is to be written. Raises: QuotaExceededError where it has no room."""
        if self.quota.bounds:
            self.usage(folder)
        return Claim(self, folder, name, replaced)

    def grow(
        self, folder: Path, name: str, files: int, size: int, *, replaced: int | None = None
    ) -> None:
        """Count what is written (or, negative, what goes). Raises: QuotaExceededError, counting nothing."""
        key = str(folder)
        with self._lock:
            if key not in self._known:
                return
            at, known = self._known[key]
            more = Usage(
                files=max(0, known.files + files),
                bytes=max(0, known.bytes + size),
                complete=known.complete,
            )
            if files > 0 or size > 0:
                check_room(name, self.quota, more, replaced)
            self._known[key] = at, more

    def forget(self, folder: Path) -> None:
        """Walk again next time."""
        with self._lock:
            self._known.pop(str(folder), None)


class Claim:
    """A file on its way into a volume, counted as it comes."""

    def __init__(self, quotas: Quotas, folder: Path, name: str, replaced: int | None) -> None:
        self._quotas = quotas
        self._folder = folder
        self._name = name
        self._replaced = replaced
        self._size = 0
        quotas.grow(folder, name, 1, 0, replaced=replaced)

    def more(self, size: int) -> None:
        """Count so many more bytes. Raises: QuotaExceededError."""
        self._quotas.grow(self._folder, self._name, 0, size, replaced=self._replaced)
        self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """It stands, and what it replaced is gone; or it does not."""
        if kind is not None:
            self._quotas.grow(self._folder, self._name, -1, -self._size)
        elif self._replaced is not None:
            self._quotas.grow(self._folder, self._name, -1, -self._replaced)


def check_disk(folder: Path, name: str) -> None:
    """Raise QuotaExceededError where the disk under a volume has nearly no room."""
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < FREE_BYTES_MIN:
        raise full(
            f"the disk under volume {name} has less than {FREE_BYTES_MIN >> 20} MiB left; remove something"
        )


def walked(folder: Path) -> Usage:
    """Return what is in a folder; no link is followed, what goes meanwhile is not counted."""
    files = size = 0
    complete = True
    # From descriptor to descriptor, so that nobody can put a link in the way.
    for path, below, names, fd in os.fwalk(folder, follow_symlinks=False):
        for name in (*names, *below):  # a link to a folder stands among those below
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                files += 0 if stat.S_ISDIR(status.st_mode) else 1
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        if path.count("/") - str(folder).count("/") >= DEPTH_MAX:
            complete = complete and not below
            below.clear()
        if files >= WALKED_MAX:
            return Usage(files=files, bytes=size, complete=False)
    return Usage(files=files, bytes=size, complete=complete)
