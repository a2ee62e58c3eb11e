"""Users' output and traces, for reading."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.messages.container import LogSegment
from glowplug_contracts.messages.trace import Span

from glowplug_gateway.http import answers
from glowplug_gateway.http.answers import Stream
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.logs import Dropped, Entry, Follower, Logs, Mark, lines_of
from glowplug_gateway.readmodel import ReadModel

TAIL_MAX = 100_000
TAIL_DEFAULT = 1_000
SEGMENTS_READ_MAX = 20_000
TAG_CHARS_MAX = 128
MARK_CHARS_MAX = 256
DEPLOYMENTS_MAX = 100


class LogRoutes:
    """See the module."""

    def __init__(self, logs: Logs, readmodel: ReadModel) -> None:
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
        invocation, tag = query.get("invocation", ""), query.get("tag", "")
        if len(tag) > TAG_CHARS_MAX:
            raise InvalidRequestError("request.invalid", "the tag is too long")
        follow = exchange.flag("follow")
        tail = int(exchange.number("tail", TAIL_DEFAULT, 0, TAIL_MAX))
        workspace = exchange.workspace
        stream = answers.Stream(exchange, answers.NDJSON_TYPE)
        # The follower collects before history is read, so that nothing falls between the two.
        with self._logs.follower(workspace, wanted, invocation, tag) as follower:
            last: dict[str, int] = {}
            if tail:
                segments = await self._readmodel.logs(
                    workspace, sorted(wanted), min(tail, SEGMENTS_READ_MAX)
                )
                last = {one.container_id: one.number for one in segments}
                await stream.start()
                for value in list(_history(segments, invocation))[-tail:]:
                    await stream.line(value)
            await stream.start()
            if follow:
                await _follow(stream, follower, last)
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
        trace_id, spans = await self._readmodel.trace(reference)
        if not spans:
            raise NotFoundError(
                "invocation.not_found",
                f"no spans of {reference[:96]!r} are known (yet): they come within a second",
            )
        return answers.json({"trace_id": trace_id, "spans": [_span_value(one) for one in spans]})


async def _follow(stream: Stream, follower: Follower, last: dict[str, int]) -> None:
    async for entry in lines_of(follower):
        if isinstance(entry, LogSegment) and entry.number <= last.get(entry.container_id, -1):
            continue  # it was in the history
        for value in _values(entry, follower.invocation):
            await stream.line(value)


def _history(segments: list[LogSegment], invocation: str) -> Iterator[dict[str, object]]:
    for segment in segments:
        yield from _values(segment, invocation)


def _values(entry: Entry, invocation: str) -> Iterator[dict[str, object]]:
    match entry:
        case Mark(text):
            yield {"mark": text}
        case Dropped(lines):
            yield {"dropped": lines, "why": "the reader was too slow"}
        case LogSegment():
            about = {
                "container_id": entry.container_id,
                "deployment_id": entry.deployment_id,
                "name": entry.name,
            }
            if entry.dropped:
                yield {"dropped": entry.dropped, "why": "the program wrote too fast"} | about
            for line in entry.lines:
                if not invocation or line.invocation_id == invocation:
                    yield {
                        "at": line.at,
                        "stream": line.stream,
                        "text": line.text,
                        "invocation_id": line.invocation_id,
                    } | about


def _span_value(span: Span) -> dict[str, object]:
    """Return a span with every field, also those that have their default."""
    return {name: getattr(span, name) for name in span.__struct_fields__}
