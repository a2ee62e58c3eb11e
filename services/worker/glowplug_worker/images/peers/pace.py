"""How fast bytes may leave: how long whoever sends waits before the next piece. A pure machine."""

from __future__ import annotations


class Pace:
    """See the module.

    Args:
        bytes_per_s: 0 = as fast as they go.
    """

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def wait_s(self, size: int, now: float) -> float:
        """Return how long to wait until `size` bytes may be sent, and count them."""
        if not self._bytes_per_s:
            return 0.0
        begin = max(now, self._free_at)
        self._free_at = begin + size / self._bytes_per_s
        return begin - now
