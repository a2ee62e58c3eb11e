"""Users' output and traces, for reading."""

from __future__ import annotations

import contextlib

from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.messages.trace import Span

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.filters import UNIX_MAX
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.log_lines import LogQuery, log_lines
from glowplug_gateway.logs import Logs
from glowplug_gateway.owned_spans import owned_spans
from glowplug_gateway.readmodel import ReadModel

TAIL_MAX = 100_000
TAIL_DEFAULT = 1_000
TAG_CHARS_MAX = 128
MARK_CHARS_MAX = 256
DEPLOYMENTS_MAX = 100


class LogRoutes:
    """See the module."""

    def __init__(self, logs: Logs, readmodel: ReadModel, catalog: Catalog) -> None:
        self._catalog = catalog
        self._logs = logs
        self._readmodel = readmodel

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/logs",
                action="log.read",
                summary="Read log lines of deployments, by id or name; follow=1 goes on as they come.",
                on_request=self.on_logs,
                answers=answers.NDJSON_TYPE,
            ),
            Route(
                method="POST",
                path="/api/v1/logs/marks/{tag}",
                action="log.read",
                summary="Put a mark into the follower of this tag, after everything heard so far.",
                on_request=self.on_mark,
            ),
            Route(
                method="GET",
                path="/api/v1/traces/{reference}",
                action="trace.read",
                summary="Show the spans of a trace, by its id or an invocation's.",
                on_request=self.on_trace,
            ),
        )

    async def on_logs(self, exchange: Exchange) -> web.StreamResponse:
        """Read, and follow if asked."""
        query = exchange.request.query
        wanted = frozenset(query.getall("deployment", ()))
        if len(wanted) > DEPLOYMENTS_MAX:
            raise InvalidRequestError(
                "request.invalid", f"at most {DEPLOYMENTS_MAX} deployments can be followed at once"
            )
        tag, ids = (
            query.get("tag", ""),
            [query.get(name, "") for name in ("invocation", "container")],
        )
        for text in (tag, *ids):
            if len(text) > TAG_CHARS_MAX:
                raise InvalidRequestError("request.invalid", "a tag or id is too long")
        follow = exchange.flag("follow")
        tail = int(exchange.number("tail", TAIL_DEFAULT, 0, TAIL_MAX))
        asked = LogQuery(
            workspace=exchange.workspace,
            wanted=wanted,
            invocation=ids[0],
            container=ids[1],
            since=exchange.number("since", 0, 0, UNIX_MAX),
            tag=tag,
            tail=tail,
            follow=follow,
        )
        stream = answers.Stream(exchange, answers.NDJSON_TYPE)
        lines = log_lines(self._logs, self._readmodel, asked)
        async with contextlib.aclosing(lines):
            await stream.start()
            async for value in lines:
                await stream.line(value)
        return await stream.end()

    async def on_mark(self, exchange: Exchange) -> web.StreamResponse:
        """Put a mark."""
        text = exchange.request.query.get("mark", "")
        if not 0 < len(text) <= MARK_CHARS_MAX:
            raise InvalidRequestError(
                "request.invalid", f"mark must have 1 to {MARK_CHARS_MAX} characters"
            )
        await self._logs.mark(exchange.workspace, exchange.path["tag"], text)
        return answers.json({"mark": text})

    async def on_trace(self, exchange: Exchange) -> web.StreamResponse:
        """Show a trace."""
        reference = exchange.path["reference"]
        trace_id, found = await self._readmodel.trace(reference)
        own = {one.deployment_id for one in self._catalog.deployments(exchange.workspace)}
        spans = owned_spans(found, exchange.workspace, own)
        if not spans:
            raise NotFoundError(
                "invocation.not_found",
                f"no spans of {reference[:96]!r} are known (yet): they come within a second",
            )
        return answers.json({"trace_id": trace_id, "spans": [_span_value(one) for one in spans]})


def _span_value(span: Span) -> dict[str, object]:
    """Return a span with every field, also those that have their default."""
    return {name: getattr(span, name) for name in span.__struct_fields__}
