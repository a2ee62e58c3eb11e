"""Dead letters over HTTP: list, look at one, replay and purge one, or all that fit."""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.answers import error_value
from glowplug_gateway.http.filters import cursor_after, letters_wanted, limit_of
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.http.task_views import row_value
from glowplug_gateway.http.tasks import task_value
from glowplug_gateway.http.timeline import arguments_value, error_in_full, timeline_value
from glowplug_gateway.letters import Handled, Letters

PATH = "/api/v1/dead-letters"
FILTERS = ("deployment", "queue", "app", "state", "tag", "parent", "since", "error_type")


class DeadLetterRoutes:
    """See the module."""

    def __init__(self, catalog: Catalog, letters: Letters) -> None:
        self._catalog = catalog
        self._letters = letters

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path=PATH,
                action="dead_letter.list",
                summary="List dead letters, newest first; those replayed already with replayed=1 or all.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path=f"{PATH}/{{task}}",
                action="dead_letter.show",
                summary="Show a dead letter: its payload, headers, attempts and last error.",
                on_request=self.on_show,
            ),
            Route(
                method="POST",
                path=f"{PATH}/{{task}}/replay",
                action="dead_letter.replay",
                summary="Try a dead letter again as a new task; the same letter is always the same one.",
                on_request=self.on_replay,
                status=202,
            ),
            Route(
                method="POST",
                path=f"{PATH}/replay",
                action="dead_letter.replay",
                summary="Try again all that fit, a page at a time: repeat with the cursor until none.",
                on_request=self.on_replay_many,
            ),
            Route(
                method="DELETE",
                path=f"{PATH}/{{task}}",
                action="dead_letter.purge",
                summary="Remove a dead letter for good.",
                on_request=self.on_purge,
            ),
            Route(
                method="DELETE",
                path=PATH,
                action="dead_letter.purge",
                summary="Remove all that fit (a filter, or all=1), a page at a time.",
                on_request=self.on_purge_many,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List letters."""
        limit = limit_of(exchange)
        wanted = letters_wanted(exchange, self._catalog)
        rows, lag = await self._letters.list(exchange.workspace, wanted, limit)
        return answers.json(
            {
                "dead_letters": [row_value(row) for row in rows],
                "cursor": cursor_after(rows, limit),
                "lag": lag,
            }
        )

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show a letter."""
        record = await self._letters.show(exchange.workspace, exchange.path["task"])
        return answers.json(letter_value(record))

    async def on_replay(self, exchange: Exchange) -> web.StreamResponse:
        """Replay one."""
        task = exchange.path["task"]
        again = await self._letters.replay(
            exchange.workspace, task, same_version=_same_version(exchange)
        )
        return answers.json({"task_id": again.invocation_id, "replay_of": task}, status=202)

    async def on_replay_many(self, exchange: Exchange) -> web.StreamResponse:
        """Replay those that fit."""
        limit = limit_of(exchange)
        wanted = letters_wanted(exchange, self._catalog)
        handled = await self._letters.replay_many(
            exchange.workspace, wanted, limit, same_version=_same_version(exchange)
        )
        replayed = [{"task_id": again, "replay_of": task} for task, again in handled.handled]
        return answers.json({"replayed": replayed} | _rest(handled, limit))

    async def on_purge(self, exchange: Exchange) -> web.StreamResponse:
        """Remove one."""
        task = exchange.path["task"]
        await self._letters.purge(exchange.workspace, task)
        return answers.json({"purged": [task]})

    async def on_purge_many(self, exchange: Exchange) -> web.StreamResponse:
        """Remove those that fit."""
        limit = limit_of(exchange)
        filtered = any(exchange.request.query.get(name) for name in FILTERS)
        if not filtered and not exchange.flag("all"):
            raise InvalidRequestError(
                "request.invalid", "say which dead letters to remove by a filter, or all=1 for all"
            )
        wanted = letters_wanted(exchange, self._catalog)
        handled = await self._letters.purge_many(exchange.workspace, wanted, limit)
        return answers.json(
            {"purged": [task for task, _ in handled.handled]} | _rest(handled, limit)
        )


def letter_value(record: InvocationRecord) -> dict[str, object]:
    """Return all that is known of a letter."""
    return task_value(record) | {
        "arguments": arguments_value(record),
        "error": error_in_full(record),
        "timeline": timeline_value(record),
        "headers": record.headers,
        "tags": record.tags,
        "name": record.name,
        "app": record.app,
        "replay_of": record.replay_of or None,
        "replayed_as": record.replayed_as or None,
        "kept_until": record.ended_at + record.dead_letter_keep_s,
    }


def _rest(handled: Handled, limit: int) -> dict[str, object]:
    return {
        "skipped": handled.skipped,
        "failed": [
            {"task_id": task, "error": error_value(error)} for task, error in handled.failed
        ],
        "cursor": cursor_after(handled.rows, limit),
    }


def _same_version(exchange: Exchange) -> bool:
    version = exchange.request.query.get("version", "latest")
    if version not in ("latest", "same"):
        raise InvalidRequestError("request.invalid", "version must be latest or same")
    return version == "same"
