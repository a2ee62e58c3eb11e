"""Whether a descriptor has something to read, whatever its number is."""

from __future__ import annotations

import select


def readable(fd: int) -> bool:
    """Return whether there is something to read, or an end. Never waits.

    `select` takes numbers below 1,024 only, and a worker has seven descriptors for each of its containers.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
