"""Reading a shard's durable records for its dispatcher: all once, what changes, and now and then all again.

What is told are headers only; payloads stay in the stream. A floor that the owner before us kept says from
where on there is anything of interest (`auditing.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import (
    HEADER_ACCEPTED,
    HEADER_AFTER,
    HEADER_ATTEMPT,
    HEADER_CONTAINER,
    HEADER_DEPLOYMENT,
    HEADER_DUE,
    HEADER_EXPIRES,
    HEADER_KEY,
    HEADER_KEY_LIMIT,
    HEADER_LOST,
    HEADER_ORDER,
    HEADER_PRIORITY,
    HEADER_RATE,
    HEADER_STARTED,
    HEADER_STATE,
    HEADER_THEN,
    HEADER_TRACE,
    HEADER_WORKER,
    InvocationRecord,
)
from glowplug_contracts.messages.worker import RecordsFloor
from glowplug_contracts.streams import FLOORS, RECORDS
from glowplug_contracts.subjects import RECORD
from glowplug_runtime.bus import Bus, Delivery, Following
from glowplug_runtime.clock import Clock

from glowplug_scheduler.dispatch import (
    AuditEnded,
    AuditRecords,
    Event,
    KeepFloor,
    RecordAudited,
    RecordRemoved,
    RecordSeen,
    RecordsRead,
    RecordVerified,
    ScanRecords,
    VerifyRecord,
)
from glowplug_scheduler.hearing import Spawn

log = structlog.get_logger()

# So soon after a shard was given up nobody waits for its records any more.
READ_LOOK_S = 1.0
# An audit that does not come to its end is given up; the next one comes.
AUDIT_MAX_S = 1800.0
# It is in no hurry, and work goes on beside it: so many records, then a pause.
AUDIT_AT_ONCE = 64
AUDIT_PAUSE_S = 0.01


class RecordReading:
    """One owner's readers; `step` is what tells the machine and performs what it decides."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        shard: int,
        spawn: Spawn,
        step: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._shard = shard
        self._spawn = spawn
        self._step = step
        self._following: Following | None = None
        self._audit: Following | None = None
        self._scans = 0
        self._told = 0
        self._stream_created = 0
        self._closed = False

    async def begin(self) -> None:
        """Tell what lives, from the floor that was kept; go on with what comes. Raises: UnavailableError."""
        await self.close()
        self._closed = False
        info = await self._bus.stream_info(RECORDS, shard=self._shard)
        self._stream_created = info["created"]
        kept = await self._kept_floor(info["last_sequence"])
        for sequence in kept.below:
            found = await self._bus.read(RECORD, sequence, shard=self._shard)
            if found is not None:  # else it was written again, and stands above the floor
                await self._step(self.event_of(found))
        await self._follow(kept.floor)

    async def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._scans += 1
        for following in (self._following, self._audit):
            if following is not None:
                await following.close()
        self._following = self._audit = None

    def do(self, decision: ScanRecords | AuditRecords | VerifyRecord | KeepFloor) -> None:
        """Do what the machine wants to be read or kept, beside everything else."""
        match decision:
            case ScanRecords(start):
                self._scans += 1  # one more of the older subscription would hide the scan's
                self._spawn(self._scan(start, self._scans), "scan records")
            case AuditRecords(start):
                self._spawn(self._audit_from(start), "audit records")
            case VerifyRecord():
                self._spawn(self._verify(decision), "verify record")
            case KeepFloor():
                self._spawn(self._keep(decision), "keep floor")

    async def _kept_floor(self, last_sequence: int) -> RecordsFloor:
        found = await self._bus.bucket(FLOORS).get(f"shard-{self._shard}")
        everything = RecordsFloor(floor=1, below=(), stream_created=self._stream_created)
        if found is None or found.value is None:
            return everything
        kept = found.value
        # A stream that was made anew, or is shorter than it was, is another one.
        same = kept.stream_created == self._stream_created and kept.floor <= last_sequence + 1
        return kept if same else everything

    async def _keep(self, decision: KeepFloor) -> None:
        kept = RecordsFloor(
            floor=decision.floor, below=decision.below, stream_created=self._stream_created
        )
        with contextlib.suppress(PlatformError):  # the next audit keeps another one
            await self._bus.bucket(FLOORS).put(f"shard-{self._shard}", kept)

    async def _scan(self, start: int, scan: int) -> None:
        while scan == self._scans:
            try:
                await self._follow(start)
            except PlatformError as error:
                log.warning("records.not_read", shard=self._shard, error=str(error))
                await asyncio.sleep(READ_LOOK_S)
            else:
                return

    async def _follow(self, start: int) -> None:
        following, self._following = self._following, None
        if following is not None:
            await following.close()
        scan = self._scans

        async def on_record(delivery: Delivery[InvocationRecord]) -> None:
            if scan == self._scans:
                self._told = delivery.sequence
                await self._step(self.event_of(delivery))

        self._told = 0
        info = await self._bus.stream_info(RECORDS, shard=self._shard)
        following = await self._bus.follow(
            RECORD.pattern(shard=self._shard), on_record, start=start, headers_only=True
        )
        if scan != self._scans:
            await following.close()
            return
        self._following = following
        self._spawn(self._tell_read(following, scan, start, info["last_sequence"]), "read records")

    async def _tell_read(self, following: Following, scan: int, start: int, last: int) -> None:
        """Tell that all is read: not before the last one that was there, whatever the broker counts."""
        told = -1
        while scan == self._scans and self._following is following:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_LOOK_S):
                    await following.caught_up()
                if self._told >= last or self._told == told or start > last:
                    await self._step(RecordsRead(start))
                    return
                told = self._told  # the last one may have left its stream; nothing more came
                await asyncio.sleep(READ_LOOK_S)

    async def _audit_from(self, start: int) -> None:
        """Read beside the reader; a record that is read is told, whatever it says."""
        audit, whole, scan, read = None, False, self._scans, 0

        async def on_record(delivery: Delivery[InvocationRecord]) -> None:
            nonlocal read
            read += 1
            if read % AUDIT_AT_ONCE == 0:
                await asyncio.sleep(AUDIT_PAUSE_S)
            event = self.event_of(delivery)
            if isinstance(event, RecordSeen) and scan == self._scans:
                await self._step(RecordAudited(event))

        try:
            async with asyncio.timeout(AUDIT_MAX_S):
                audit = self._audit = await self._bus.follow(
                    RECORD.pattern(shard=self._shard), on_record, start=start, headers_only=True
                )
                await audit.caught_up()
            whole = True
        except (TimeoutError, PlatformError) as error:
            log.warning("records.not_audited", shard=self._shard, error=str(error))
        finally:
            self._audit = None
            if audit is not None:
                await audit.close()
        if not self._closed:
            await self._step(AuditEnded(whole))

    async def _verify(self, decision: VerifyRecord) -> None:
        at = RECORD.at(
            shard=self._shard,
            workspace=decision.workspace,
            invocation_id=decision.invocation_id,
        )
        try:
            found = await self._bus.last(at)
        except PlatformError:
            return  # the next audit doubts it again
        if self._closed:
            return
        if found is None:
            await self._step(RecordRemoved(decision.invocation_id, decision.sequence))
            return
        event = self.event_of(found)
        if isinstance(event, RecordSeen):
            log.info(
                "record.read_again",
                invocation_id=decision.invocation_id,
                sequence=event.sequence,
                doubted=decision.sequence,
            )
            await self._step(RecordVerified(event))

    # -- What a record says ---------------------------------------------------------------------

    def event_of(self, delivery: Delivery[InvocationRecord]) -> RecordSeen | RecordRemoved:
        """Return a record's news, by its headers."""
        headers, fields = delivery.headers, delivery.fields
        invocation_id = InvocationId(fields["invocation_id"])
        state = headers.get(HEADER_STATE)
        if state is None:  # a marker: its time to live ended, or somebody purged it
            return RecordRemoved(invocation_id, delivery.sequence)
        count, period_s = _rate(headers.get(HEADER_RATE))
        after_count, after_if = _after(headers.get(HEADER_AFTER))
        return RecordSeen(
            invocation_id,
            WorkspaceId(fields["workspace"]),
            DeploymentId(headers[HEADER_DEPLOYMENT]),
            State(state),
            delivery.sequence,
            attempt=int(headers.get(HEADER_ATTEMPT) or 0),
            lost_attempts=int(headers.get(HEADER_LOST) or 0),
            priority=int(headers.get(HEADER_PRIORITY) or 0),
            due_at=self._on_our_clock(headers.get(HEADER_DUE)),
            expires_at=self._on_our_clock(headers.get(HEADER_EXPIRES)),
            worker_id=WorkerId(headers.get(HEADER_WORKER) or ""),
            container_id=ContainerId(headers.get(HEADER_CONTAINER) or ""),
            trace=headers.get(HEADER_TRACE) or "",
            accepted_at=float(headers.get(HEADER_ACCEPTED) or 0.0),
            order=int(headers.get(HEADER_ORDER) or 0),
            key=headers.get(HEADER_KEY) or "",
            key_limit=_key_limit(headers.get(HEADER_KEY_LIMIT)),
            rate_count=count,
            rate_period_s=period_s,
            started_at=self._on_our_clock(headers.get(HEADER_STARTED)),
            then=_ids(headers.get(HEADER_THEN)),
            after_count=after_count,
            after_if=after_if or "succeeded",
        )

    def _on_our_clock(self, unix: str | None) -> float:
        at = float(unix or 0.0)
        return self._clock.now() + at - self._clock.unix() if at else 0.0


def _key_limit(text: str | None) -> int:
    """Return how many of a key run at once, 0 for one at a time in order."""
    return 0 if text in {None, "", "ordered"} else max(1, int(text or 1))


def _rate(text: str | None) -> tuple[int, float]:
    count, _, period_s = (text or "").partition("/")
    return (int(count), float(period_s)) if period_s else (0, 1.0)


def _ids(text: str | None) -> tuple[InvocationId, ...]:
    return tuple(InvocationId(one) for one in text.split(",")) if text else ()


def _after(text: str | None) -> tuple[int, str]:
    count, _, condition = (text or "0").partition("/")
    return int(count), condition
