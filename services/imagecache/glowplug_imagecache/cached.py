"""Files of this replica that are in the bucket, too: so that what is read often is not brought again.

    cached/<path>        as in the bucket; the modification time says when it was used last

Bounded: above the bound, what was used least lately goes, but nothing that was used within USED_S, which
somebody may be about to open. Losing any of it, or all, loses nothing. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USED_S: Final = 60.0
# Down to this share of the bound, so that not every file makes room for itself.
KEPT_SHARE: Final = 0.9


class Cached:
    """See the module."""

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._root = root
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._bytes = sum(size for _, size, _ in self._files())

    @property
    def bytes(self) -> int:
        """Return what is here, as far as it was counted."""
        return self._bytes

    def find(self, path: str) -> Path | None:
        """Return a file and note that it is used; None if it is not here."""
        file = self._root / path
        try:
            os.utime(file)
        except FileNotFoundError:
            return None
        return file

    def adopt(self, temporary: Path, path: str) -> Path:
        """Take over a file of the same file system; return it. Not synced: the bucket has it."""
        file = self._root / path
        size = temporary.stat().st_size
        os.utime(temporary)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.rename(file)
        with self._lock:
            self._bytes += size
            if self._bytes > self._bytes_max:
                self._trim()
        return file

    def drop(self, path: str) -> None:
        """Forget a file."""
        with contextlib.suppress(FileNotFoundError):
            (self._root / path).unlink()

    def trim(self) -> None:
        """Count anew and keep the bound."""
        with self._lock:
            self._trim()

    def _trim(self) -> None:
        found = sorted(self._files(), key=lambda file: file[2])
        self._bytes = sum(size for _, size, _ in found)
        if self._bytes <= self._bytes_max:
            return
        before = time.time() - USED_S
        for path, size, used_at in found:
            if used_at >= before or self._bytes <= self._bytes_max * KEPT_SHARE:
                return
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self._bytes -= size

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        for folder, _, names in os.walk(self._root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    path = Path(folder, name)
                    about = path.stat()
                    yield path, about.st_size, about.st_mtime
