"""Every change of every durable record, heard once: for the lists, and for whoever watches one record.

Headers only; whoever wants the record reads it. What this gateway wrote itself comes back the same way, and
`caught_up` waits for it: so the gateway that wrote a thing lists it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.invocation import InvocationRecord
from glowplug_contracts.streams import RECORDS, Stream
from glowplug_contracts.subjects import RECORD
from glowplug_runtime.bus import Delivery

from glowplug_gateway.ports import Platform
from glowplug_gateway.readmodel import ReadModel

CAUGHT_UP_S = 2.0


class RecordFeed:
    """See the module."""

    def __init__(self, platform: Platform, readmodel: ReadModel) -> None:
        self._platform = platform
        self._readmodel = readmodel
        self._watchers: dict[InvocationId, set[asyncio.Event]] = {}
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
        for watcher in self._watchers.get(InvocationId(delivery.fields["invocation_id"]), ()):
            watcher.set()
        for listener in tuple(self._listeners):
            listener(delivery)
        await self._readmodel.take_record(records_of(shard), delivery)
        self._heard[shard] = delivery.sequence
        self._pending[shard] = delivery.pending
        self._moved.set()

    @contextlib.contextmanager
    def watch(self, invocation_id: InvocationId) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the record changes."""
        changed = asyncio.Event()
        self._watchers.setdefault(invocation_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._watchers[invocation_id].discard(changed)
            if not self._watchers[invocation_id]:
                del self._watchers[invocation_id]

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


def records_of(shard: int) -> Stream:
    """Return the stream of a shard's records."""
    return msgspec.structs.replace(RECORDS, name=RECORDS.name.format(shard=shard))
