"""Who waits for which bytes, whoever answers: the holder's decisions. A pure machine, standard library only.

The holder hears readers from the kernel and tells the daemon; the daemon may die and come back. A reader goes on only
if the daemon said that its bytes are there; until then it waits, and fails when nobody has come for too long,
when the daemon says so, or when the end has begun.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from glowplug_worker.images.mounts.ranges import Ranges
from glowplug_worker.images.mounts.wire import Answer, Need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# A daemon is back within a second or two. Readers of an image whose daemon does not come back must not hang.
NO_DAEMON_S = 60.0
# What is told of a device's content in stretches; beyond, the daemon is asked again, which costs time only.
STRETCHES_MAX = 65_536


class Reader(NamedTuple):
    """Who waits: a door of the kernel's (0 is fanotify, others are FUSE's descriptors) and its number for the read."""

    door: int
    number: int


class Reply(NamedTuple):
    """Tell the kernel: the reader goes on (`error` 0), or fails."""

    reader: Reader
    error: int
    need: Need


class Send(NamedTuple):
    """Tell the daemon."""

    need: Need


class Holding:
    """See the module. Every method returns what to do, in order."""

    def __init__(self) -> None:
        """Begin with nobody waiting and no daemon."""
        self._waiting: dict[int, tuple[Reader, Need]] = {}
        self._there: dict[int, Ranges] = {}
        self._next = 1
        self._daemon = False
        self._alone_since: float | None = None
        self.closing = False

    @property
    def waiting(self) -> int:
        """Return how many readers wait."""
        return len(self._waiting)

    def watch(self, device: int) -> None:
        """A device is there, with nothing in it."""
        self._there[device] = Ranges()

    def unwatch(self, device: int) -> Iterator[Reply]:
        """A device is gone. Nobody should be reading it; whoever does gets an error."""
        self._there.pop(device, None)
        yield from self._fail(
            [t for t, (_, need) in self._waiting.items() if need.device == device]
        )

    def need(
        self, reader: Reader, device: int, offset: int, count: int, now: float
    ) -> Iterator[Reply | Send]:
        """A reader wants bytes."""
        need = Need(self._next, device, offset, min(count, 2**63 - 1 - offset))
        self._next += 1
        there = self._there.get(device)
        if self.closing or there is None:
            yield Reply(reader, errno.EIO, need)
        elif there.covers(offset, offset + count):
            yield Reply(reader, 0, need)
        else:
            self._waiting[need.ticket] = (reader, need)
            if self._daemon:
                yield Send(need)
            elif self._alone_since is None:
                self._alone_since = now

    def answered(self, answer: Answer) -> Iterator[Reply]:
        """The daemon says how it went. What it says of nobody who waits still tells what is there."""
        there = self._there.get(answer.device)
        if there is not None and len(there) < STRETCHES_MAX:
            there.add(answer.start, answer.end)
        found = self._waiting.pop(answer.ticket, None)
        if found:
            yield Reply(found[0], answer.error, found[1])

    def daemon_came(self) -> Iterator[Send]:
        """A new daemon: it hears of everybody who waits."""
        self._daemon, self._alone_since = True, None
        for _, need in self._waiting.values():
            yield Send(need)

    def daemon_went(self, now: float) -> None:
        """Nobody answers until another comes."""
        self._daemon, self._alone_since = False, now

    def passed(self, now: float) -> Iterator[Reply]:
        """Time has passed."""
        if (
            not self._daemon
            and self._alone_since is not None
            and now >= self._alone_since + NO_DAEMON_S
        ):
            yield from self._fail(list(self._waiting))

    def close(self) -> Iterator[Reply]:
        """The worker is gone: from now on everything fails that would have to be fetched."""
        self.closing = True
        yield from self._fail(list(self._waiting))

    def _fail(self, tickets: list[int]) -> Iterator[Reply]:
        for ticket in tickets:
            reader, need = self._waiting.pop(ticket)
            yield Reply(reader, errno.EIO, need)
