"""Lists of calls, and one task's changes as they come."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from aiohttp import web
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import InvocationId, check_id
from glowplug_contracts.messages.invocation import State, is_terminal

from glowplug_gateway.calllist import CallRow
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.filters import calls_wanted, cursor_after, limit_of
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.http.tasks import PUBLIC, TaskRoutes, task_value
from glowplug_gateway.readmodel import ReadModel
from glowplug_gateway.recordfeed import RecordFeed
from glowplug_gateway.records import Records

# Changes of the record wake a subscriber at once; progress, and what was missed, it looks for itself.
LOOK_S = 1.0
BEAT_LOOKS = 15
EVENT_ID_CHARS_MAX = 64
HEADER_LAST_EVENT = "Last-Event-ID"


class TaskViewRoutes:
    """See the module."""

    def __init__(
        self, catalog: Catalog, records: Records, feed: RecordFeed, readmodel: ReadModel
    ) -> None:
        self._catalog = catalog
        self._records = records
        self._feed = feed
        self._readmodel = readmodel
        self._tasks = TaskRoutes(records)

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        follow = "Follow a task: server-sent events of its state and progress, until it has ended."
        return (
            Route(
                method="GET",
                path="/api/v1/tasks",
                action="task.list",
                summary="List calls, newest first, by deployment, app, state, tag, parent and time.",
                on_request=self.on_list,
            ),
            *(
                Route(
                    method="GET",
                    path=path,
                    action="task.show",
                    summary=follow,
                    on_request=self.on_subscribe,
                    answers=answers.SSE_TYPE,
                )
                for path in (
                    "/tasks/{task}/subscribe",
                    "/api/v1/tasks/{task}/subscribe",
                    "/api/v1/task/{workspace}/{task}/subscribe",
                )
            ),
            Route(
                method="GET",
                path="/api/v1/task/{workspace}/{task}",
                action="task.show",
                summary="Show a task of a workspace.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path="/api/v1/task/{workspace}/{task}",
                action="task.cancel",
                summary="Cancel a task of a workspace that has not ended.",
                on_request=self.on_cancel,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List what the read model knows; what this gateway wrote itself stands in it."""
        limit = limit_of(exchange)
        wanted = calls_wanted(exchange, self._catalog)
        lag = await self._feed.caught_up()
        rows = await self._readmodel.calls(exchange.workspace, wanted, limit)
        return answers.json(
            {
                "tasks": [row_value(row) for row in rows],
                "cursor": cursor_after(rows, limit),
                "lag": lag,
            }
        )

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show a record."""
        _check_workspace(exchange)
        return await self._tasks.on_show(exchange)

    async def on_cancel(self, exchange: Exchange) -> web.StreamResponse:
        """Cancel a record."""
        _check_workspace(exchange)
        return await self._tasks.on_cancel(exchange)

    async def on_subscribe(self, exchange: Exchange) -> web.StreamResponse:
        """Tell how it is, then every change; go on after the event that the caller has seen."""
        _check_workspace(exchange)
        task = InvocationId(check_id("invocation", exchange.path["task"]))
        request = exchange.request
        seen = request.headers.get(HEADER_LAST_EVENT, request.query.get("last_event_id", ""))
        seen = seen[:EVENT_ID_CHARS_MAX]
        record, sequence = await self._records.read(exchange.workspace, task)
        if is_terminal(record.state) and seen.split("-")[0] == str(sequence):
            return web.Response(status=204)  # tells browsers not to come again
        stream = answers.Stream(exchange, answers.SSE_TYPE)
        looks = 0
        with self._feed.watch(task) as changed:
            while True:
                changed.clear()
                record, sequence = await self._records.read(exchange.workspace, task)
                progress = await self._records.progress(record)
                event = f"{sequence}-{progress.at:.3f}" if progress is not None else f"{sequence}"
                if event != seen:
                    same_state = seen.split("-")[0] == str(sequence)
                    await stream.event(
                        msgspec.json.encode(task_value(record, progress)),
                        "progress" if same_state else "state",
                        event_id=event,
                    )
                    seen = event
                if is_terminal(record.state) or self._feed.ending:
                    return await stream.end()
                looks += 1
                if looks % BEAT_LOOKS == 0:
                    await stream.beat()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await changed.wait()


def row_value(row: CallRow) -> dict[str, object]:
    """Return a call as lists show it."""
    status, state, reason = PUBLIC[State(row.state)]
    succeeded = row.state == State.SUCCEEDED
    return {
        "task_id": row.invocation_id,
        "deployment_id": row.deployment_id,
        "name": row.name,
        "app": row.app,
        "kind": "durable" if row.durable else "interactive",
        "status": status,
        "state": state,
        "reason": reason,
        "progress": 100.0 if succeeded else max(0.0, round(row.fraction * 100, 2)),
        "attempt": row.attempt,
        "at": row.at,
        "ended_at": row.ended_at or None,
        "run_ms": row.run_ms,
        "inputs": row.inputs,
        "container_id": row.container_id,
        "error_type": row.error_type,
        "parent": row.parent or None,
        "dead_letter": bool(row.letter),
        "replayed_as": row.replayed_as or None,
        "callback": row.callback or None,
        "kept_until": row.gone_at or None,
    }


def _check_workspace(exchange: Exchange) -> None:
    workspace = exchange.path.get("workspace", exchange.workspace)
    if workspace != exchange.workspace:
        raise NotFoundError(
            "invocation.not_found", f"there is no record of {exchange.path['task']}"
        )
