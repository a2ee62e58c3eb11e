"""User ids for containers that a worker run by root starts: never root's, never two containers' at once.

One per container, or, for containers with user namespaces, a range of 65,536 named by its first.

The range is Glowplug's own. Workers of one host share it without talking: an id is taken by locking
its file, and the kernel gives the lock back when the worker ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import UnavailableError

# High enough to meet no account, no subuid range and no systemd range; the second where the host's own
# user namespace maps only 65536 ids.
RANGES: Final = (range(0x6770_0000, 0x6770_0000 + 4096), range(50_000, 54_096))
# The same for whole ranges; only where the worker's namespace maps all ids.
SPAN: Final = 65_536
SPANS: Final = (range(0x6800_0000, 0x6800_0000 + 4096 * SPAN, SPAN),)
LOCKS: Final = Path("/run/glowplug/uids")


class Uids:
    """Takes and gives back ids; holds one open descriptor per id taken."""

    def __init__(self, locks: Path = LOCKS, ranges: tuple[range, ...] = RANGES) -> None:
        self._locks = locks
        self._held: dict[int, int] = {}
        mapped = _mapped_range()
        self._range = next((r for r in ranges if r.start in mapped and r.stop - 1 in mapped), None)

    def take(self) -> int:
        """Return an id that no live container of any worker on this host has.

        Raises: UnavailableError when the host maps no such ids, or all are taken.
        """
        if self._range is None:
            raise UnavailableError("platform.unavailable", "this host maps no user ids to spare")
        self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        for uid in self._range:
            if uid not in self._held and self._lock(uid):
                return uid
        raise UnavailableError("platform.unavailable", "every user id for containers is taken")

    def give_back(self, uid: int) -> None:
        """Let others have it. Nothing that runs under it may live any more."""
        os.close(self._held.pop(uid))

    def _lock(self, uid: int) -> bool:
        if _is_account(uid):
            return False
        fd = os.open(self._locks / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._held[uid] = fd
        return True


def _mapped_range() -> range:
    """Return the host ids that this process's user namespace maps in one piece from 0."""
    first, _, count = next(_uid_map())
    return range(first, first + count)


def _uid_map() -> Iterator[tuple[int, int, int]]:
    for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines():
        inside, outside, count = map(int, line.split())
        yield inside, outside, count


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
