"""Durable invocations: accept them, show them, cancel them, hear of their end.

The record on the bus is the truth; the gateway only creates it (fsynced before the answer), writes
CANCELLED, and what became of dead letters and callbacks. Whoever waits is woken by the feed of changes,
and also looks now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
from glowplug_contracts.addresses import Network
from glowplug_contracts.errors import ConflictError, NotFoundError, PlatformError
from glowplug_contracts.ids import InvocationId, WorkspaceId, check_id
from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, State, is_terminal
from glowplug_contracts.messages.record import (
    InvocationRecord,
    Progress,
    attempts_after,
    kept_s,
    ordered_by,
    record_headers,
)
from glowplug_contracts.subjects import PROGRESS, RECORD, Address, shard_of
from glowplug_runtime.bus import Write

from glowplug_gateway.addresses import check_url
from glowplug_gateway.at_once import claimed
from glowplug_gateway.blobs import Blobs, not_stored
from glowplug_gateway.calls import Calls
from glowplug_gateway.links import Lent, Links
from glowplug_gateway.ports import Platform
from glowplug_gateway.recordfeed import RecordFeed
from glowplug_gateway.straight import Straight
from glowplug_gateway.submitting import Stored, Submitter
from glowplug_gateway.work import arguments_needed_s

LOOK_S = 0.5
CANCEL_TRIES_MAX = 20


class Records:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        calls: Calls,
        blobs: Blobs,
        feed: RecordFeed,
        links: Links,
        networks: Sequence[Network] = (),
    ) -> None:
        self._platform = platform
        self._calls = calls
        self._blobs = blobs
        self._submitter = Submitter(platform)
        self._feed = feed
        self._networks = networks
        self._straight = Straight(platform, links, calls, feed, self)

    async def accept(self, record: InvocationRecord) -> InvocationRecord:
        """Write a new record, or return the one that the same id and arguments made before.

        Raises: ConflictError (the id was used for something else), UnavailableError, OverloadedError,
            InvalidRequestError (the blob is not stored).
        """
        await self._prepare(record)
        lent = self._straight.lend(record)
        if lent is None:
            stored = await self._store_first(record)
        else:
            record, stored = await self._begin(record, lent)
        accepted = await self._accepted(record, stored)
        if isinstance(accepted, PlatformError):
            raise accepted
        return accepted

    async def _begin(self, record: InvocationRecord, lent: Lent) -> tuple[InvocationRecord, Stored]:
        """Store new work as running in a slot that was lent, and send it there."""
        clock, sending = self._platform.clock, False
        record = claimed(record, lent.worker_id, lent.slot.container_id, clock.unix())
        began_at = clock.now()
        try:
            stored = await self._store_first(record)
            if sending := isinstance(stored, int):
                await self._straight.send(lent, record, stored, began_at)
        finally:
            if not sending:
                self._straight.take_back(lent)
        return record, stored

    async def _store_first(self, record: InvocationRecord) -> Stored:
        self._feed.accepting(
            record
        )  # before: its end may be heard before we hear that it is stored
        (stored,) = await self._submitter.submit([self._first_write(record)])
        return stored

    async def accept_many(
        self, records: Sequence[InvocationRecord]
    ) -> Sequence[InvocationRecord | PlatformError]:
        """Write new records of one workspace; return for each what `accept` would return or raise.

        Arguments that are a blob are leased for as long as they may be needed.
        """
        refused: dict[int, PlatformError] = {}
        for place, record in enumerate(records):
            try:
                await self._prepare(record)
            except PlatformError as error:
                refused[place] = error
        sound = [place for place in range(len(records)) if place not in refused]
        writes = [self._first_write(records[place]) for place in sound]
        for write in writes:  # before: their ends may be heard before we hear that they are stored
            self._feed.accepting(write.message)
        stored = await self._submitter.submit(writes) if writes else ()
        accepted: list[InvocationRecord | PlatformError] = [
            refused.get(place, record) for place, record in enumerate(records)
        ]
        for place, result in zip(sound, stored, strict=True):
            accepted[place] = await self._accepted(records[place], result)
        return accepted

    async def _accepted(
        self, record: InvocationRecord, stored: Stored
    ) -> InvocationRecord | PlatformError:
        """Return the record that stands under a new record's id now, or why there is none."""
        if isinstance(stored, int):
            self._feed.wrote(self._shard(record.workspace), stored)
            return record
        self._feed.not_accepted(record.invocation_id)
        if isinstance(stored, ConflictError):
            return await self._known_or_conflict(record)
        return stored

    async def _prepare(self, record: InvocationRecord) -> None:
        if record.callback_url:
            check_url(record.callback_url, self._networks)
        blob = record.input.args.blob
        own = self._blobs.of(record.workspace)
        if blob is not None and not await own.renew(blob, _blob_needed_s(record)):
            raise not_stored(blob)

    def _first_write(self, record: InvocationRecord) -> Write[InvocationRecord]:
        return Write(
            to=self._at(record.workspace, record.invocation_id),
            message=record,
            expect_last=0,
            headers=record_headers(record),
        )

    async def _known_or_conflict(
        self, record: InvocationRecord
    ) -> InvocationRecord | PlatformError:
        try:
            known = await self.show(record.workspace, record.invocation_id)
        except NotFoundError:
            return _conflict(record, "was removed")
        except PlatformError as error:
            return error
        # An idempotency key has said already that it is the same work.
        by_key = record.idempotency_key and record.idempotency_key == known.idempotency_key
        same = by_key or (
            known.deployment_id == record.deployment_id and known.input == record.input
        )
        return known if same else _conflict(record, "was used for another call")

    async def show(self, workspace: WorkspaceId, invocation_id: str) -> InvocationRecord:
        """Return a record. Raises: NotFoundError, InvalidRequestError (no such id)."""
        return (await self.read(workspace, invocation_id))[0]

    async def progress(self, record: InvocationRecord) -> Progress | None:
        """Return what the attempt that runs said of its progress last, or the one that ended."""
        if record.state is not State.RUNNING:
            return record.progress
        shard = shard_of(record.workspace, self._platform.shards)
        at = PROGRESS.at(
            shard=shard, workspace=record.workspace, invocation_id=record.invocation_id
        )
        found = await self._platform.bus.last(at)
        if found is None or found.message is None or found.message.attempt != record.attempt:
            return None
        return found.message.progress

    async def wait(
        self, workspace: WorkspaceId, invocation_id: str, wait_s: float
    ) -> InvocationRecord:
        """Return the record when it is terminal, or as it is after `wait_s`. Raises: NotFoundError."""
        known = InvocationId(check_id("invocation", invocation_id))
        deadline = self._platform.clock.now() + wait_s
        with self._feed.watch_end(known) as end:
            if wait_s > 0 and self._feed.is_on_its_way(workspace, known):
                await _within(min(LOOK_S, wait_s), end.heard)
            while True:
                if end.record is not None and end.record.workspace == workspace:
                    return end.record
                end.heard.clear()
                record = await self.show(workspace, known)
                left_s = deadline - self._platform.clock.now()
                if is_terminal(record.state) or left_s <= 0 or self._feed.ending:
                    return record
                await _within(min(LOOK_S, left_s), end.heard)

    async def cancel(self, workspace: WorkspaceId, invocation_id: str) -> InvocationRecord:
        """Write CANCELLED unless it has ended already; tell the shard's owner. Raises: NotFoundError."""
        for _ in range(CANCEL_TRIES_MAX):
            record, sequence = await self.read(workspace, invocation_id)
            if is_terminal(record.state):
                return record
            cancelled = _cancelled(record, self._platform.clock.unix())
            try:
                await self.change(cancelled, sequence)
            except ConflictError:
                continue  # a worker was first; perhaps it has ended
            await self._calls.send_cancel(record.invocation_id, self._shard(workspace))
            return cancelled
        raise ConflictError("invocation.conflict", f"{invocation_id} changes too fast; try again")

    async def change(self, record: InvocationRecord, sequence: int) -> None:
        """Write a record whose last word was read at `sequence`. Raises: ConflictError, UnavailableError."""
        now_unix = self._platform.clock.unix()
        record = msgspec.structs.replace(record, order=ordered_by(record, sequence))
        written = await self._platform.bus.append(
            self._at(record.workspace, record.invocation_id),
            record,
            expect_last=sequence,
            headers=record_headers(record),
            ttl_s=_kept_on_s(record, now_unix),
        )
        self._feed.wrote(self._shard(record.workspace), written)

    async def remove(self, record: InvocationRecord, sequence: int) -> None:
        """Remove a record for good. Raises: ConflictError (it has changed), UnavailableError."""
        at = self._at(record.workspace, record.invocation_id)
        mark = await self._platform.bus.remove(at, expect_last=sequence)
        self._feed.wrote(self._shard(record.workspace), mark)

    async def read(
        self, workspace: WorkspaceId, invocation_id: str
    ) -> tuple[InvocationRecord, int]:
        """Return a record and its sequence. Raises: NotFoundError, InvalidRequestError (no such id)."""
        known = InvocationId(check_id("invocation", invocation_id))
        found = await self._platform.bus.last(self._at(workspace, known))
        if found is None or found.message is None:
            raise NotFoundError("invocation.not_found", f"there is no record of {known}")
        return found.message, found.sequence

    def _at(self, workspace: WorkspaceId, invocation_id: InvocationId) -> Address[InvocationRecord]:
        return RECORD.at(
            shard=self._shard(workspace), workspace=workspace, invocation_id=invocation_id
        )

    def _shard(self, workspace: WorkspaceId) -> int:
        return shard_of(workspace, self._platform.shards)


async def _within(wait_s: float, event: asyncio.Event) -> None:
    """Wait for an event, or until it has been long enough."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()


def _blob_needed_s(record: InvocationRecord) -> float:
    """Return how long arguments are needed: by attempts, and to be shown and replayed as a letter."""
    return arguments_needed_s(record) + (record.dead_letter_keep_s if record.dead_letter else 0.0)


def _kept_on_s(record: InvocationRecord, now_unix: float) -> float:
    """Return a record's time to live now: what changes after its end does not prolong it."""
    kept = kept_s(record, now_unix)
    ended_at = record.ended_at or now_unix
    return max(1.0, kept - max(0.0, now_unix - ended_at)) if kept else 0.0


def _conflict(record: InvocationRecord, why: str) -> ConflictError:
    return ConflictError("invocation.conflict", f"{record.invocation_id} {why}")


def _cancelled(record: InvocationRecord, now_unix: float) -> InvocationRecord:
    error = RemoteError(
        code="invocation.cancelled", type="CancelledError", message="the task was cancelled"
    )
    return msgspec.structs.replace(
        record,
        state=State.CANCELLED,
        ended_at=now_unix,
        outcome=InputOutcome(index=record.input.index, state=State.CANCELLED, error=error),
        attempts=attempts_after(record, State.CANCELLED, error, now_unix),
    )
