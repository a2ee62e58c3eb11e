"""Durable work seen from outside: status, result, cancel, list. A task id is an invocation id."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web
from glowplug_contracts.messages.invocation import (
    INLINE_BYTES_MAX,
    Format,
    InputOutcome,
    State,
    is_terminal,
)
from glowplug_contracts.messages.record import InvocationRecord, Progress

from glowplug_gateway.http import answers
from glowplug_gateway.http.calls import answer
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.http.timeline import more_value
from glowplug_gateway.records import Records

WAIT_MAX_S = 300.0

# state -> (status in the SDK, state in HTTP, reason)
PUBLIC: Final[dict[State, tuple[str, str, str]]] = {
    State.ACCEPTED: ("PENDING", "pending", ""),
    State.RUNNING: ("RUNNING", "running", ""),
    State.RETRY_WAIT: ("RETRY", "retrying", ""),
    State.SUCCEEDED: ("COMPLETE", "completed", ""),
    State.FAILED: ("ERROR", "failed", "error"),
    State.DEAD: ("ERROR", "failed", "dead"),
    State.TIMED_OUT: ("TIMEOUT", "failed", "timeout"),
    State.CANCELLED: ("CANCELLED", "cancelled", "cancelled"),
    State.EXPIRED: ("EXPIRED", "failed", "expired"),
}


class TaskRoutes:
    """See the module."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/tasks/{task}/status",
                action="task.show",
                summary="Show a task: state, progress, and the result where it is JSON.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path="/tasks/{task}",
                action="task.cancel",
                summary="Cancel a task that has not ended.",
                on_request=self.on_cancel,
            ),
            Route(
                method="GET",
                path="/api/v1/tasks/{task}",
                action="task.show",
                summary="Show a task: state, progress, and the result where it is JSON.",
                on_request=self.on_show,
            ),
            Route(
                method="GET",
                path="/api/v1/tasks/{task}/result",
                action="task.show",
                summary="Return a task's result as a call answers it; 202 while it has none.",
                on_request=self.on_result,
                answers="application/octet-stream",
            ),
        )

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show a record."""
        record = await self._records.show(exchange.workspace, exchange.path["task"])
        progress = await self._records.progress(record)
        return answers.json(task_value(record, progress) | more_value(record))

    async def on_result(self, exchange: Exchange) -> web.StreamResponse:
        """Wait for the end and answer as a call does."""
        wait_s = exchange.number("wait_s", 0.0, 0.0, WAIT_MAX_S)
        record = await self._records.wait(exchange.workspace, exchange.path["task"], wait_s)
        if not is_terminal(record.state):
            return answers.json(task_value(record), status=202)
        outcome = record.outcome or InputOutcome(state=record.state)
        if outcome.state is not record.state:
            outcome = msgspec.structs.replace(outcome, state=record.state)
        return answer(record.invocation_id, outcome, as_json=answers.wants_json(exchange))

    async def on_cancel(self, exchange: Exchange) -> web.StreamResponse:
        """Cancel a record."""
        record = await self._records.cancel(exchange.workspace, exchange.path["task"])
        return answers.json(task_value(record))


def task_value(record: InvocationRecord, progress: Progress | None = None) -> dict[str, object]:
    """Return a record under the names that users know."""
    status, state, reason = PUBLIC[record.state]
    said = progress or record.progress
    value: dict[str, object] = {
        "task_id": record.invocation_id,
        "deployment_id": record.deployment_id,
        "status": status,
        "state": state,
        "reason": reason,
        "progress": _percentage(record, said),
        "message": said.message if said is not None else "",
        "attempt": record.attempt,
        "priority": record.priority,
        "due_at": record.due_at or None,
        "expires_at": record.expires_at or None,
        "parent": record.parent or None,
        "after": list(record.after),
        "then": list(record.then),
        "tags": record.tags,
        "accepted_at": record.accepted_at,
        "started_at": record.started_at or None,
        "ended_at": record.ended_at or None,
        "result": None,
        "error": None,
    }
    outcome = record.outcome
    if outcome is None:
        return value
    value["run_ms"] = outcome.run_ms
    if outcome.error is not None:
        error = outcome.error
        value["error"] = {
            "code": error.code,
            "type": error.type,
            "message": error.message,
            "details": error.details,
        }
    result = outcome.result
    if result is not None:
        value["result_format"] = result.format
        if result.format is Format.JSON and result.data and len(result.data) <= INLINE_BYTES_MAX:
            value["result"] = msgspec.Raw(result.data)
    return value


def _percentage(record: InvocationRecord, said: Progress | None) -> float:
    """Return 0 … 100: what the code said, and 100 only once it has succeeded."""
    if record.state is State.SUCCEEDED:
        return 100.0
    return round(100 * said.fraction, 2) if said is not None and said.fraction > 0 else 0.0
