"""Every change of every durable record, heard once: for the lists, and for whoever watches one record.

Headers only; whoever wants the record reads it. What this gateway wrote itself comes back the same way, and
`caught_up` waits for it: so the gateway that wrote a thing lists it at once. What it accepted itself is known
to be on its way until its end is heard: whoever waits for that end need not read the record before. The end of what
went straight to a worker is told by that worker, with the record: it need not be read at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import msgspec
from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.invocation import State, is_terminal
from glowplug_contracts.messages.record import HEADER_STATE, InvocationRecord
from glowplug_contracts.streams import RECORDS, Stream
from glowplug_contracts.subjects import RECORD, shard_of
from glowplug_runtime.bus import Delivery

from glowplug_gateway.line import Line
from glowplug_gateway.ports import Platform
from glowplug_gateway.readmodel import ReadModel

CAUGHT_UP_S = 2.0
# Whoever waits for one that is not remembered any more reads it once more.
ON_THEIR_WAY_MAX = 20_000
# A worker tells an end when the feed does, and with the record: that is worth waiting for as long as this.
TOLD_WITHIN_S = 0.02
# What ended a moment before somebody asked for it.
LATELY_MAX = 64
LATELY_S = 5.0
LATELY_BYTES_MAX = 64 * 1024
_NEVER = None, float("inf")


W = TypeVar("W")


class End:
    """What somebody waits for: that a record ends, and what it is then if whoever ended it has said so."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.record: InvocationRecord | None = None


class RecordFeed:
    """See the module."""

    def __init__(self, platform: Platform, readmodel: ReadModel) -> None:
        self._platform = platform
        self._readmodel = readmodel
        self._watchers: dict[InvocationId, set[asyncio.Event]] = {}
        self._end_watchers: dict[InvocationId, set[End]] = {}
        self.line = Line()
        self._on_their_way: dict[InvocationId, WorkspaceId] = {}
        self._told_by_link: set[InvocationId] = set()
        self._lately: dict[InvocationId, tuple[InvocationRecord, int]] = {}
        self._heard: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._moved = asyncio.Event()
        self.ending = False
        self._listeners: set[Callable[[Delivery[InvocationRecord]], None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Follow the records of every shard while the context is open."""
        async with contextlib.AsyncExitStack() as stack:
            shards = range(self._platform.shards)
            starts = await self._readmodel.starts_of_records([records_of(one) for one in shards])
            for shard, start in zip(shards, starts, strict=True):
                following = await self._platform.bus.follow(
                    RECORD.pattern(shard=shard), self.on_record, start=start, headers_only=True
                )
                stack.push_async_callback(following.close)
            yield

    async def on_record(self, delivery: Delivery[InvocationRecord]) -> None:
        """A record was written or removed."""
        shard = int(delivery.fields["shard"])
        invocation_id = InvocationId(delivery.fields["invocation_id"])
        for watcher in self._watchers.get(invocation_id, ()):
            watcher.set()
        if _is_end(delivery):
            if invocation_id in self._told_by_link:
                loop = asyncio.get_running_loop()
                loop.call_later(TOLD_WITHIN_S, self._hear_end, invocation_id)
            else:
                self._hear_end(invocation_id)
        if delivery.sequence > self._lately.get(invocation_id, _NEVER)[1]:
            del self._lately[invocation_id]
        if delivery.headers.get(HEADER_STATE) != State.ACCEPTED:
            self.line.leave(invocation_id)
        for listener in tuple(self._listeners):
            listener(delivery)
        await self._readmodel.take_record(records_of(shard), delivery)
        self._heard[shard] = delivery.sequence
        self._pending[shard] = delivery.pending
        self._moved.set()

    @contextlib.contextmanager
    def watch(self, invocation_id: InvocationId) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the record changes."""
        with _watch(self._watchers, invocation_id, asyncio.Event()) as changed:
            yield changed

    @contextlib.contextmanager
    def watch_end(self, invocation_id: InvocationId) -> Iterator[End]:
        """Yield what is told when the record ends, or is removed."""
        with _watch(self._end_watchers, invocation_id, End()) as end:
            if invocation_id in self._lately:
                end.record, _ = self._lately[invocation_id]
            yield end

    def is_on_its_way(self, workspace: WorkspaceId, invocation_id: InvocationId) -> bool:
        """Return whether this gateway accepted it, and has not heard of its end."""
        return self._on_their_way.get(invocation_id) == workspace

    @contextlib.contextmanager
    def listen(self, listener: Callable[[Delivery[InvocationRecord]], None]) -> Iterator[None]:
        """Call `listener` with every change while the context is open."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def end_watchers(self) -> None:
        """The gateway stops: whoever follows a task ends here, and goes on at another gateway."""
        self.ending = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()
        for ends in self._end_watchers.values():
            for end in ends:
                end.heard.set()

    def accepting(self, record: InvocationRecord) -> None:
        """This gateway is about to write the first word of a record."""
        if len(self._on_their_way) >= ON_THEIR_WAY_MAX:
            oldest = next(iter(self._on_their_way))
            del self._on_their_way[oldest]
            self._told_by_link.discard(oldest)
        self._on_their_way[record.invocation_id] = record.workspace
        self.line.join(record)

    def not_accepted(self, invocation_id: InvocationId) -> None:
        """The first word was not ours, or is not known to be written."""
        self._on_their_way.pop(invocation_id, None)
        self.line.leave(invocation_id)

    def sending(self, invocation_id: InvocationId) -> None:
        """It goes straight to a worker, which will tell how it ended."""
        self._told_by_link.add(invocation_id)

    def told_end(self, record: InvocationRecord, sequence: int) -> None:
        """Whoever ended a record says so, at once: it stands at `sequence`, and comes through the feed, too."""
        self.wrote(shard_of(record.workspace, self._platform.shards), sequence)
        if _bytes_of(record) <= LATELY_BYTES_MAX:
            if len(self._lately) >= LATELY_MAX:
                del self._lately[next(iter(self._lately))]
            self._lately[record.invocation_id] = record, sequence
            loop = asyncio.get_running_loop()
            loop.call_later(LATELY_S, self._lately.pop, record.invocation_id, None)
        for end in self._end_watchers.get(record.invocation_id, ()):
            end.record = record
        self._hear_end(record.invocation_id)

    def _hear_end(self, invocation_id: InvocationId) -> None:
        self._told_by_link.discard(invocation_id)
        self._on_their_way.pop(invocation_id, None)
        for end in self._end_watchers.get(invocation_id, ()):
            end.heard.set()

    def wrote(self, shard: int, sequence: int) -> None:
        """This gateway wrote a record itself."""
        self._written[shard] = max(sequence, self._written.get(shard, 0))

    async def caught_up(self) -> int:
        """Wait until our own writes have come back, CAUGHT_UP_S at most; return the lag in changes."""
        wanted = dict(self._written)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_S):
                while any(self._heard.get(shard, 0) < last for shard, last in wanted.items()):
                    self._moved.clear()
                    await self._moved.wait()
        return sum(self._pending.values())


@contextlib.contextmanager
def _watch(
    watchers: dict[InvocationId, set[W]], invocation_id: InvocationId, watcher: W
) -> Iterator[W]:
    watchers.setdefault(invocation_id, set()).add(watcher)
    try:
        yield watcher
    finally:
        watchers[invocation_id].discard(watcher)
        if not watchers[invocation_id]:
            del watchers[invocation_id]


def _bytes_of(record: InvocationRecord) -> int:
    outcome = record.outcome
    payloads = (record.input.args, outcome.result if outcome is not None else None)
    return sum(len(payload.data or b"") for payload in payloads if payload is not None)


def _is_end(delivery: Delivery[InvocationRecord]) -> bool:
    state = delivery.headers.get(HEADER_STATE)
    return state is None or is_terminal(State(state))


@functools.cache
def records_of(shard: int) -> Stream:
    """Return the stream of a shard's records."""
    return msgspec.structs.replace(RECORDS, name=RECORDS.name.format(shard=shard))
