"""How a durable invocation's record changes in a worker's hands. Pure: record in, record out.

The worker writes what these return by compare-and-set from the sequence that it read or wrote last;
that sequence is the fencing token. Times are Unix seconds.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.ids import ContainerId, WorkerId
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    InputOutcome,
    RemoteError,
    State,
)
from glowplug_contracts.messages.record import EXPIRED_ERROR, InvocationRecord, attempts_after

from glowplug_worker.attempts import decide_retry
from glowplug_worker.batches import failed_items, keep_items

LOST = RemoteError(
    code="invocation.lost",
    type="InvocationLostError",
    message="its container or worker was lost",
)
CLAIMABLE = frozenset({State.ACCEPTED, State.RETRY_WAIT})


def claim(
    record: InvocationRecord, worker_id: WorkerId, container_id: ContainerId, unix: float
) -> InvocationRecord:
    """Return the record as this worker's: RUNNING, one attempt further."""
    return msgspec.structs.replace(
        record,
        state=State.RUNNING,
        attempt=record.attempt + 1,
        started_at=unix,
        due_at=0.0,
        progress=None,
        reason="",
        worker_id=worker_id,
        container_id=container_id,
        outcome=None,
    )


def expire(record: InvocationRecord, unix: float) -> InvocationRecord:
    """Return the record of an invocation that came too late to its start."""
    return msgspec.structs.replace(
        record,
        state=State.EXPIRED,
        ended_at=unix,
        outcome=InputOutcome(index=record.input.index, state=State.EXPIRED, error=EXPIRED_ERROR),
    )


def refuse(record: InvocationRecord, why: str, unix: float) -> InvocationRecord:
    """Return the record of an invocation that can't start: what it was to get is not there."""
    error = RemoteError(
        code="invocation.predecessor_gone", type="PredecessorFailedError", message=why
    )
    return msgspec.structs.replace(
        record,
        state=State.FAILED,
        ended_at=unix,
        outcome=InputOutcome(index=record.input.index, state=State.FAILED, error=error),
    )


def finish(record: InvocationRecord, outcome: InputOutcome, unix: float) -> InvocationRecord:
    """Return the record after an attempt that user code ended: terminal, or RETRY_WAIT."""
    attempts = attempts_after(record, outcome.state, outcome.error, unix)
    tries = record.user_attempts + (outcome.state is not State.SUCCEEDED)
    retry = record.retry
    if failed := failed_items(record, outcome.error):
        # Only these come back; the handler asked for it, whatever else is or is not tried again.
        record = keep_items(record, failed)
        retry = msgspec.structs.replace(retry, retry_for=(), no_retry_for=())
    delay_s = None
    if outcome.state in (State.FAILED, State.TIMED_OUT):
        delay_s = decide_retry(retry, tries, outcome.error, record.invocation_id)
    if delay_s is None:
        return msgspec.structs.replace(
            record,
            state=outcome.state,
            user_attempts=tries,
            ended_at=unix,
            outcome=outcome,
            attempts=attempts,
        )
    return msgspec.structs.replace(
        record,
        state=State.RETRY_WAIT,
        attempts=attempts,
        user_attempts=tries,
        due_at=unix + delay_s,
        outcome=outcome,
    )


def lose(record: InvocationRecord, error: RemoteError | None, unix: float) -> InvocationRecord:
    """Return the record after an attempt that the platform lost: again at once, or DEAD."""
    lost = record.lost_attempts + 1
    if lost <= PLATFORM_RETRIES_MAX:
        return msgspec.structs.replace(
            record,
            state=State.RETRY_WAIT,
            lost_attempts=lost,
            due_at=unix,
            attempts=attempts_after(record, State.RETRY_WAIT, error or LOST, unix),
        )
    error = error or RemoteError(
        code="invocation.lost",
        type="InvocationLostError",
        message=f"the platform lost the invocation {lost} times",
    )
    return msgspec.structs.replace(
        record,
        state=State.DEAD,
        lost_attempts=lost,
        ended_at=unix,
        outcome=InputOutcome(index=record.input.index, state=State.FAILED, error=error),
        attempts=attempts_after(record, State.DEAD, error, unix),
    )
