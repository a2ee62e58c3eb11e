"""Which trees leave a worker's disk when they take too much of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

# Kept free for everything else that writes there: logs, containers' own files, layers of builds.
FREE_BYTES_MIN: Final = 1 << 30


class Stay(msgspec.Struct, frozen=True, kw_only=True):
    """A tree on the disk.

    Attributes:
        size: its bytes there.
        used_at: when somebody last let go of it, on any clock that all of them share.
        held: a container has it.
    """

    name: str
    size: int
    used_at: float
    held: bool


def bound_of(wanted: int, taken: int, free: int, total: int) -> int:
    """Return how many bytes trees may take.

    Args:
        wanted: what the operator says; 0 = half of the file system.
        taken: what they take now.
        free, total: of the file system.
    """
    return max(0, min(wanted or total // 2, taken + free - FREE_BYTES_MIN))


def leaving(stays: Iterable[Stay], bytes_max: int) -> list[str]:
    """Return those that go, unused for longest first, until the rest fits; none that is held ever goes."""
    stays = list(stays)
    taken = sum(each.size for each in stays)
    found: list[str] = []
    for each in sorted(stays, key=lambda stay: (stay.used_at, stay.name)):
        if taken <= bytes_max:
            break
        if not each.held:
            found.append(each.name)
            taken -= each.size
    return found
