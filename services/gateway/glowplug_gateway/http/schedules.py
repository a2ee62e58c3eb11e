"""Schedules: list, show, next, pause, resume, run now."""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.http import HEADER_INVOCATION
from glowplug_contracts.messages.schedule import ScheduleEntry

from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.inputs import parse_object
from glowplug_gateway.schedules import Scheduled, Schedules

LIST_MAX = 1_000
NEXT_MAX = 100
RUN_BYTES_MAX = 1_024


class ScheduleRoutes:
    """See the module."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        one = "/api/v1/schedules/{schedule}"
        run = "Run a schedule's function now; its due times stay as they are."
        return (
            Route(
                method="GET",
                path="/api/v1/schedules",
                action="schedule.list",
                summary="List schedules by name; by app, or only paused ones.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path=one,
                action="schedule.show",
                summary="Show a schedule: next due time, and what fired or was skipped lately.",
                on_request=self.on_show,
            ),
            Route(
                method="GET",
                path=f"{one}/next",
                action="schedule.show",
                summary="Tell a schedule's next due times.",
                on_request=self.on_next,
            ),
            Route(
                method="POST",
                path=f"{one}/pause",
                action="schedule.change",
                summary="Let a schedule's due times pass.",
                on_request=self.on_pause,
            ),
            Route(
                method="POST",
                path=f"{one}/resume",
                action="schedule.change",
                summary="Go on with a schedule's next due time from now.",
                on_request=self.on_resume,
            ),
            Route(
                method="POST",
                path=f"{one}/run",
                action="invocation.spawn",
                summary=run,
                on_request=self.on_run,
                traced=True,
                status=202,
            ),
            Route(
                method="POST",
                path="/schedule/{schedule}",
                action="invocation.spawn",
                summary=run,
                on_request=self.on_run,
                traced=True,
                status=202,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        query = exchange.request.query
        limit = int(exchange.number("limit", 100, 1, LIST_MAX))
        app, after, only_paused = query.get("app"), query.get("cursor", ""), exchange.flag("paused")
        found = [
            one
            for one in self._schedules.listed(exchange.workspace)
            if one.deployment.spec.name > after
            and (app is None or one.deployment.spec.app == app)
            and (not only_paused or one.state.paused)
        ]
        shown = found[:limit]
        cursor = shown[-1].deployment.spec.name if len(found) > limit else ""
        return answers.json({"schedules": [schedule_value(one) for one in shown], "cursor": cursor})

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show one."""
        found = await self._schedules.show(exchange.workspace, exchange.path["schedule"])
        lines = [_entry_value(entry) for entry in found.state.history]
        return answers.json(schedule_value(found) | {"history": lines})

    async def on_next(self, exchange: Exchange) -> web.StreamResponse:
        """Tell the next due times."""
        count = int(exchange.number("count", 5, 1, NEXT_MAX))
        name = exchange.path["schedule"]
        upcoming = await self._schedules.upcoming(exchange.workspace, name, count)
        return answers.json({"name": name, "next": upcoming})

    async def on_pause(self, exchange: Exchange) -> web.StreamResponse:
        """Pause."""
        found = await self._schedules.pause(exchange.workspace, exchange.path["schedule"])
        return answers.json(schedule_value(found))

    async def on_resume(self, exchange: Exchange) -> web.StreamResponse:
        """Resume."""
        found = await self._schedules.resume(exchange.workspace, exchange.path["schedule"])
        return answers.json(schedule_value(found))

    async def on_run(self, exchange: Exchange) -> web.StreamResponse:
        """Run now."""
        if parse_object(await body(exchange.request, RUN_BYTES_MAX)):
            raise InvalidRequestError(
                "request.invalid", "a schedule's function takes no arguments: send no body"
            )
        name = exchange.path["schedule"]
        record = await self._schedules.run(exchange.workspace, name, exchange.trace)
        if exchange.span is not None:
            exchange.span.set(
                invocation_id=record.invocation_id, deployment_id=record.deployment_id
            )
        response = answers.json({"task_id": record.invocation_id}, status=202)
        response.headers[HEADER_INVOCATION] = record.invocation_id
        return response


def schedule_value(found: Scheduled) -> dict[str, object]:
    """Return a schedule under the names that users know."""
    spec, state, deployment = found.spec, found.state, found.deployment
    return {
        "name": deployment.spec.name,
        "app": deployment.spec.app,
        "deployment_id": deployment.deployment_id,
        "version": deployment.version,
        "when": spec.when,
        "timezone": spec.timezone,
        "catch_up": spec.catch_up,
        "paused": state.paused,
        "paused_at": state.paused_at or None,
        "next_due": None if state.paused else state.next_due or None,
        "fired": state.fired,
        "skipped": state.skipped,
        "created_at": state.created_at,
    }


def _entry_value(entry: ScheduleEntry) -> dict[str, object]:
    return {
        "due": entry.due,
        "last": entry.last or entry.due,
        "count": entry.count,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "task_id": entry.invocation_id or None,
        "at": entry.at,
    }
