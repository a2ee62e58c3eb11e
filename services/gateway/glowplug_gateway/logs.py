"""Users' output as it comes: followers of a workspace's log lines, and marks between them.

Every line goes to every follower that asked for its deployment. A follower that reads too slowly loses
the oldest waiting lines and is told how many. A mark is put into a follower's lines after everything that
had reached this gateway when it was asked for: a program that got its result asks for a mark, and has seen
all output once the mark comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator

import msgspec
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.messages.container import LogSegment
from glowplug_contracts.subjects import LOG
from glowplug_runtime.bus import Delivery

from glowplug_gateway.ports import Platform

SEGMENTS_WAITING_MAX = 2_000
FOLLOWERS_MAX = 1_000


class Mark(msgspec.Struct, frozen=True):
    """Everything before it was sent before somebody asked for it."""

    text: str


class Dropped(msgspec.Struct, frozen=True):
    """So many lines were lost here, because the follower read too slowly."""

    lines: int


Entry = LogSegment | Mark | Dropped


class Follower:
    """What waits for one reader."""

    def __init__(self, workspace: str, wanted: frozenset[str], tag: str) -> None:
        self.workspace = workspace
        self.wanted = wanted
        self.tag = tag
        self._waiting: deque[LogSegment | Mark] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self.ended = False

    def offer(self, segment: LogSegment) -> None:
        """Keep a segment if it is one of the wanted."""
        if segment.workspace != self.workspace:
            return
        if self.wanted and not self.wanted & {segment.deployment_id, segment.name}:
            return
        if len(self._waiting) >= SEGMENTS_WAITING_MAX:
            oldest = self._waiting.popleft()
            if isinstance(oldest, LogSegment):
                self._dropped += len(oldest.lines) + oldest.dropped
            else:
                self._waiting.append(oldest)  # a mark is a promise; it may come later, never not
        self._waiting.append(segment)
        self._news.set()

    def mark(self, text: str) -> None:
        """Put a mark after what waits."""
        self._waiting.append(Mark(text))
        self._news.set()

    def take(self) -> Iterator[Entry]:
        """Return what waits now."""
        if self._dropped:
            lines, self._dropped = self._dropped, 0
            yield Dropped(lines)
        while self._waiting:
            yield self._waiting.popleft()

    def end(self) -> None:
        """Have the reader told that nothing more comes."""
        self.ended = True
        self._news.set()

    async def news(self) -> None:
        """Return when something may wait."""
        await self._news.wait()
        self._news.clear()


class Logs:
    """See the module."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._followers: set[Follower] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear log segments while the context is open."""
        listening = await self._platform.bus.listen(LOG.pattern(), self.on_log)
        try:
            yield
        finally:
            await listening.close()

    async def on_log(self, delivery: Delivery[LogSegment]) -> None:
        """A container wrote something. Never waits: marks count on it."""
        if delivery.message is not None:
            for follower in self._followers:
                follower.offer(delivery.message)

    @contextlib.contextmanager
    def follower(self, workspace: str, wanted: frozenset[str], tag: str) -> Iterator[Follower]:
        """Collect from now on until the context ends. `wanted` holds ids and names; empty: all."""
        follower = Follower(workspace, wanted, tag)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def end_followers(self) -> None:
        """End every follower: this gateway stops, and its readers go to another one."""
        for follower in self._followers:
            follower.end()

    async def mark(self, workspace: str, tag: str, text: str) -> None:
        """Put a mark into the followers of this tag. Raises: NotFoundError if there is none."""
        # After a round trip to the broker everything it had sent before is handled.
        await self._platform.bus.flush()
        marked = [one for one in self._followers if (one.workspace, one.tag) == (workspace, tag)]
        if not marked:
            raise NotFoundError("invocation.not_found", f"nobody follows logs as {tag!r} here")
        for follower in marked:
            follower.mark(text)


async def lines_of(follower: Follower) -> AsyncIterator[Entry]:
    """Yield what comes for a follower, until it is ended."""
    while True:
        for entry in follower.take():
            yield entry
        if follower.ended:
            return
        await follower.news()
