"""Which of the replicas that share a directory does what only one should do."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Yield whether nobody else holds the file; hold it meanwhile.

    The kernel lets go of it when the process ends, however it ends. A shared file system must have such locks.
    """
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
