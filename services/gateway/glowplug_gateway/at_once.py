"""Which new work may begin at once, and what its record is then. Pure.

Only what nobody else decides about: no priority, time, key, rate or other work. What waits, `line.py` knows.
"""

from __future__ import annotations

from typing import Final

import msgspec
from glowplug_contracts.ids import ContainerId, WorkerId
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import InvocationRecord

# With what stands around it, a record must fit a link's frame.
STRAIGHT_BYTES_MAX: Final = 512 * 1024


def may_go_straight(record: InvocationRecord) -> bool:
    """Return whether new work may begin at once if a slot is free: nothing else decides when it may."""
    size = len(record.input.args.data or b"")
    size += sum(
        len(key) + len(value) for key, value in (*record.headers.items(), *record.tags.items())
    )
    return (
        record.state is State.ACCEPTED
        and record.attempt == 0
        and record.priority == 0
        and not record.due_at
        and not record.key.key
        and not record.rate.count
        and not record.after
        and not record.then
        and not record.pass_as
        and record.input.args.blob is None
        and size <= STRAIGHT_BYTES_MAX
    )


def claimed(
    record: InvocationRecord, worker_id: WorkerId, container_id: ContainerId, unix: float
) -> InvocationRecord:
    """Return new work as it is stored when it begins at once."""
    return msgspec.structs.replace(
        record,
        state=State.RUNNING,
        attempt=1,
        started_at=unix,
        worker_id=worker_id,
        container_id=container_id,
    )


def unclaimed(record: InvocationRecord) -> InvocationRecord:
    """Return it as it would have been accepted: its one attempt surely never began."""
    return msgspec.structs.replace(
        record,
        state=State.ACCEPTED,
        attempt=0,
        started_at=0.0,
        worker_id=WorkerId(""),
        container_id=ContainerId(""),
    )
