"""Durable records as services write them, for tests of what shows them."""

from __future__ import annotations

import msgspec
from glowplug_contracts.ids import DEFAULT_WORKSPACE, DeploymentId, InvocationId, make_id
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    State,
    is_terminal,
)
from glowplug_contracts.messages.record import (
    InvocationRecord,
    attempts_after,
    kept_s,
    record_headers,
)
from glowplug_contracts.subjects import RECORD

DEPLOYMENT = DeploymentId("dep_00000000000000000000000001")
ERROR = RemoteError(
    code="function.failed", type="ValueError", message="no such page", traceback="Traceback …\n"
)


def task_id(number: int) -> InvocationId:
    return InvocationId(make_id("invocation", 0, number.to_bytes(10)))


def a_record(number: int, state: State = State.ACCEPTED, **changes) -> InvocationRecord:
    """Return a record whose age, among others, is its number."""
    data = b'{"args":[],"kwargs":{"n":%d}}' % number
    fields = {
        "invocation_id": task_id(number),
        "workspace": DEFAULT_WORKSPACE,
        "deployment_id": DEPLOYMENT,
        "name": "pages",
        "app": "books",
        "input": Input(args=Payload(format=Format.JSON, data=data, size=len(data))),
        "accepted_at": 1_000.0 + number,
        "dead_letter": True,
    }
    record = InvocationRecord(**(fields | changes))
    return (
        ended(record, state) if is_terminal(state) else msgspec.structs.replace(record, state=state)
    )


def ended(
    record: InvocationRecord, state: State, unix: float = 4_000_000_000.0
) -> InvocationRecord:
    """Return the record as a worker ends it; the end lies ahead, so that no clock has passed it."""
    running = msgspec.structs.replace(
        record, state=State.RUNNING, attempt=record.attempt + 1, started_at=unix - 1
    )
    error = None if state is State.SUCCEEDED else ERROR
    result = Payload(format=Format.JSON, data=b"5", size=1) if error is None else None
    return msgspec.structs.replace(
        running,
        state=state,
        ended_at=unix,
        outcome=InputOutcome(state=state, error=error, result=result, run_ms=1.5),
        attempts=attempts_after(running, state, error, unix),
    )


def record_at(invocation_id: str, workspace: str = DEFAULT_WORKSPACE):
    return RECORD.at(shard=0, workspace=workspace, invocation_id=invocation_id)


async def write(bus, record: InvocationRecord, expect_last: int = 0) -> int:
    """Write a record as every service does."""
    return await bus.append(
        record_at(record.invocation_id, record.workspace),
        record,
        expect_last=expect_last,
        headers=record_headers(record),
        ttl_s=kept_s(record, record.ended_at),
    )


async def read(bus, invocation_id: str) -> InvocationRecord:
    return (await bus.last(record_at(invocation_id))).message
