"""Changing durable records over the bus, by compare-and-set (adapter of `ports.Records`)."""

from __future__ import annotations

import msgspec
from glowplug_contracts.errors import ConflictError
from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, State
from glowplug_contracts.messages.record import (
    EXPIRED_ERROR,
    InvocationRecord,
    attempts_after,
    kept_s,
    ordered_by,
    record_headers,
)
from glowplug_contracts.subjects import RECORD
from glowplug_runtime.bus import Bus
from glowplug_runtime.clock import Clock

from glowplug_scheduler.dispatch_types import WriteRecord

LOST = RemoteError(
    code="invocation.lost",
    type="InvocationLostError",
    message="its container or worker was lost",
)


class BusRecords:
    """Records in their streams."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock

    async def change(self, shard: int, write: WriteRecord) -> None:
        """See the port."""
        at = RECORD.at(shard=shard, workspace=write.workspace, invocation_id=write.invocation_id)
        found = await self._bus.last(at)
        if found is None or found.message is None or found.sequence != write.sequence:
            return
        record = changed(found.message, write, self._clock.unix())
        record = msgspec.structs.replace(record, order=ordered_by(record, found.sequence))
        try:
            await self._bus.append(
                at,
                record,
                expect_last=write.sequence,
                headers=record_headers(record),
                ttl_s=kept_s(record, self._clock.unix()),
            )
        except ConflictError:
            return  # the new word is on its way to the dispatcher


def changed(record: InvocationRecord, write: WriteRecord, unix: float) -> InvocationRecord:
    """Return the record as the dispatcher wants it."""
    if write.state is State.RETRY_WAIT:
        return msgspec.structs.replace(
            record,
            state=State.RETRY_WAIT,
            lost_attempts=record.lost_attempts + 1,
            due_at=unix,
            attempts=attempts_after(record, State.RETRY_WAIT, write.error or LOST, unix),
        )
    if write.state is State.EXPIRED:
        expired = InputOutcome(index=record.input.index, state=State.EXPIRED, error=EXPIRED_ERROR)
        return msgspec.structs.replace(record, state=State.EXPIRED, ended_at=unix, outcome=expired)
    if write.state is State.CANCELLED:
        cancelled = InputOutcome(index=record.input.index, state=State.CANCELLED, error=write.error)
        return msgspec.structs.replace(
            record, state=State.CANCELLED, ended_at=unix, outcome=cancelled
        )
    lost = record.lost_attempts + (write.state is State.DEAD)
    error = write.error or RemoteError(
        code="invocation.lost",
        type="InvocationLostError",
        message=f"the platform lost the invocation {lost} times",
    )
    return msgspec.structs.replace(
        record,
        state=write.state,
        lost_attempts=lost,
        ended_at=unix,
        outcome=InputOutcome(index=record.input.index, state=State.FAILED, error=error),
        attempts=attempts_after(record, write.state, error, unix),
    )
