"""What a record tells beyond its state: each attempt, its arguments, its last error in full."""

from __future__ import annotations

import base64

import msgspec
from glowplug_contracts.messages.invocation import Format, State
from glowplug_contracts.messages.record import InvocationRecord, is_dead_letter


def more_value(record: InvocationRecord) -> dict[str, object]:
    """Return what is shown of one task and not of each in a list."""
    return {
        "name": record.name,
        "app": record.app,
        "parent": record.parent or None,
        "tags": record.tags,
        "timeline": timeline_value(record),
        "callback": callback_value(record),
        "dead_letter": is_dead_letter(record),
        "replay_of": record.replay_of or None,
        "replayed_as": record.replayed_as or None,
    }


def timeline_value(record: InvocationRecord) -> list[dict[str, object]]:
    """Return the attempts, oldest first, the one that runs last."""
    lines: list[dict[str, object]] = [
        {
            "attempt": line.number,
            "state": line.state.value,
            "started_at": line.started_at,
            "ended_at": line.ended_at,
            "container_id": line.container_id,
            "worker_id": line.worker_id,
            "error_type": line.error_type,
            "error": line.error,
        }
        for line in record.attempts
    ]
    if record.state is State.RUNNING:
        lines.append(
            {
                "attempt": record.attempt,
                "state": record.state.value,
                "started_at": record.started_at,
                "ended_at": None,
                "container_id": record.container_id,
                "worker_id": record.worker_id,
                "error_type": "",
                "error": "",
            }
        )
    return lines


def callback_value(record: InvocationRecord) -> dict[str, object] | None:
    """Return how far the telling of the callback's URL is; None where there is none."""
    if not record.callback_url:
        return None
    said = record.callback
    return {
        "url": record.callback_url,
        "state": said.state if said else "waiting",
        "attempts": said.attempts if said else 0,
        "due_at": (said.due_at or None) if said else None,
        "status": (said.status or None) if said else None,
        "error": said.error if said else "",
        "at": (said.at or None) if said else None,
    }


def arguments_value(record: InvocationRecord) -> dict[str, object]:
    """Return the payload as it came: JSON as JSON, pickles as base64 (never unpickled here)."""
    args = record.input.args
    value: dict[str, object] = {"format": args.format.value, "size": args.size}
    if args.blob is not None:
        return value | {"blob": args.blob}
    data = args.data or b""
    if args.format is Format.JSON:
        return value | {"value": msgspec.Raw(data or b"null")}
    return value | {"base64": base64.b64encode(data).decode()}


def error_in_full(record: InvocationRecord) -> dict[str, object] | None:
    """Return the last error with its traceback."""
    error = record.outcome.error if record.outcome else None
    if error is None:
        return None
    return {
        "code": error.code,
        "type": error.type,
        "message": error.message,
        "traceback": error.traceback,
        "details": error.details,
    }
