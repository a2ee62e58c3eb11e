"""Events over HTTP: the CloudEvents binding, and reading and replaying what is kept.

`POST /events` takes the binary, structured and batch content modes; the answer comes when everything is on
disk. The same source and id again is the same event.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from aiohttp import web
from glowplug_contracts.cloudevents import check_unreserved, read_events, write_structured
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.eventmatch import Glob, check_pattern, compile_trigger
from glowplug_contracts.ids import check_token
from glowplug_contracts.messages.event import CloudEvent

from glowplug_gateway.events import Events, Kept, Replayed
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route

LIST_MAX: Final = 1_000
# How far back the newest events are looked for, and so many deliveries one replay makes at most.
LOOK_BACK: Final = 10_000
REPLAY_MAX: Final = 10_000
REPLAY_BYTES_MAX: Final = 64 * 1024
REPLAY_NAME: Final = "replay"

Match = Callable[[CloudEvent], bool]


class ReplayAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a replay.

    Attributes:
        since / until: Unix seconds or an RFC 3339 time, of acceptance; until "" = now.
        trigger: only to this one; "" = to every trigger that wants the event.
        type, subject, source: only events that these globs match.
        id: names the replay; under one name each event is delivered again once to each trigger.
        cursor: go on where an answer said.
    """

    since: float | str = 0.0
    until: float | str = ""
    trigger: str = ""
    type: str = ""
    subject: str = ""
    source: str = ""
    id: str = REPLAY_NAME
    cursor: int = 0


_REPLAY = msgspec.json.Decoder(ReplayAsked)


class EventRoutes:
    """See the module."""

    def __init__(self, events: Events, *, body_bytes_max: int) -> None:
        self._events = events
        self._body_bytes_max = body_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/events",
                action="event.send",
                summary="Accept CloudEvents: binary, structured or batch; answered when they are on disk.",
                on_request=self.on_send,
                traced=True,
                status=202,
            ),
            Route(
                method="GET",
                path="/api/v1/events",
                action="event.read",
                summary="List the newest events, or those since a time or cursor; follow=1 goes on.",
                on_request=self.on_list,
            ),
            Route(
                method="POST",
                path="/api/v1/events/replay",
                action="event.replay",
                summary="Deliver kept events again; lines tell of each delivery.",
                on_request=self.on_replay,
                answers=answers.NDJSON_TYPE,
            ),
            Route(
                method="GET",
                path="/api/v1/events/{event}",
                action="event.read",
                summary="Show a kept event.",
                on_request=self.on_show,
            ),
        )

    async def on_send(self, exchange: Exchange) -> web.StreamResponse:
        """Accept events."""
        request = exchange.request
        raw = await body(request, self._body_bytes_max)
        events = read_events(request.headers.items(), raw)
        for event in events:
            check_unreserved(event)
        ids = await self._events.accept(exchange.workspace, events, exchange.trace)
        if exchange.span is not None:
            exchange.span.set(events=len(ids))
        value: dict[str, object] = {"ids": ids}
        if len(ids) == 1:
            value["id"] = ids[0]
        return answers.json(value, status=202)

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show an event."""
        kept = await self._events.show(exchange.workspace, exchange.path["event"])
        return answers.json(event_value(kept))

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List events, or follow them as lines."""
        query = exchange.request.query
        wanted = compile_wanted(query)
        limit = int(exchange.number("limit", 50, 1, LIST_MAX))
        start, newest = await self._start(query)
        if exchange.flag("follow"):
            return await self._follow(exchange, start if not newest else None, wanted)
        found: deque[Kept] = deque(maxlen=limit)
        read_to = start - 1
        async with self._events.open_reader(exchange.workspace, start) as unread:
            while (kept := await unread.get()) is not None:
                read_to = kept.sequence
                if wanted(kept.stored.event):
                    found.append(kept)
                    if len(found) == limit and not newest:
                        break
        return answers.json(
            {"events": [event_value(each) for each in found], "cursor": str(read_to + 1)}
        )

    async def _start(self, query: Mapping[str, str]) -> tuple[int, bool]:
        """Return where to begin, and whether that is only to find the newest."""
        cursor = query.get("cursor", "")
        if cursor:
            return _cursor(cursor), False
        if query.get("since", ""):
            return await self._events.place_of(unix_of("since", query["since"])), False
        first, last = await self._events.ends()
        return max(first, last + 1 - LOOK_BACK), True

    async def _follow(
        self, exchange: Exchange, start: int | None, wanted: Match
    ) -> web.StreamResponse:
        if start is None:
            start = (await self._events.ends())[1] + 1
        stream = answers.Stream(exchange, answers.NDJSON_TYPE)
        async with self._events.open_reader(exchange.workspace, start) as unread:
            await stream.start()
            while not self._events.ended:
                kept = await unread.get()
                if kept is not None and wanted(kept.stored.event):
                    await stream.line(event_value(kept))
        return await stream.end()

    async def on_replay(self, exchange: Exchange) -> web.StreamResponse:
        """Replay."""
        asked = _replay(await body(exchange.request, REPLAY_BYTES_MAX))
        wanted = compile_wanted({n: getattr(asked, n) for n in ("type", "subject", "source")})
        workspace = exchange.workspace
        names = [asked.trigger] if asked.trigger else self._events.triggers(workspace)
        triggers = [await self._events.trigger(workspace, name) for name in names]
        matches = [
            (each, compile_trigger(each.spec.trigger))
            for each in triggers
            if each.spec.trigger is not None
        ]
        until = unix_of("until", asked.until) if asked.until != "" else float("inf")
        start = asked.cursor or await self._events.place_of(unix_of("since", asked.since))
        made = again = events = cursor = 0
        async with (
            answers.lines(exchange) as stream,
            self._events.open_reader(workspace, start) as unread,
        ):
            while (kept := await unread.get()) is not None:
                stored = kept.stored
                if stored.accepted_at > until:
                    continue
                if made + again >= REPLAY_MAX:
                    cursor = kept.sequence
                    break
                to = [one for one, match in matches if match(stored.event)]
                if not to or not wanted(stored.event):
                    continue
                events += 1
                for deployment in to:
                    done = await self._events.replay(deployment, stored, asked.id)
                    made, again = made + (not done.again), again + done.again
                    await stream.line({"event": "replayed"} | _replayed_value(done))
            counted = {"events": events, "created": made, "repeated": again}
            await stream.line({"event": "done", "id": asked.id, "cursor": cursor} | counted)
        return await stream.end()


def event_value(kept: Kept) -> dict[str, object]:
    """Return a kept event as it is shown: the event in its own JSON form, and what is known of it."""
    stored = kept.stored
    return {
        "event_id": stored.event_id,
        "accepted_at": stored.accepted_at,
        "cursor": str(kept.sequence + 1),
        "event": msgspec.Raw(write_structured(stored.event)),
    }


def _replayed_value(done: Replayed) -> dict[str, object]:
    return {
        "event_id": done.event.event_id,
        "id": done.event.event.id,
        "source": done.event.event.source,
        "type": done.event.event.type,
        "trigger": done.trigger,
        "task_id": done.task_id,
        "repeated": done.again,
    }


def compile_wanted(query: Mapping[str, str]) -> Match:
    """Return the test of the filters in a query. Raises: InvalidRequestError."""
    tests: list[tuple[str, Glob]] = []
    for name, divider in (("type", "."), ("subject", "/"), ("source", "/")):
        pattern = query.get(name, "")
        if pattern:
            check_pattern(pattern)
            tests.append((name, Glob(pattern, divider)))
    return lambda event: all(glob.matches(getattr(event, name)) for name, glob in tests)


def unix_of(name: str, given: float | str) -> float:
    """Return a time as Unix seconds. Raises: InvalidRequestError."""
    try:
        return float(given)
    except ValueError:
        pass
    try:
        moment = dt.datetime.fromisoformat(str(given))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidRequestError(
            "request.invalid",
            f"{name} must be Unix seconds, or a time as in RFC 3339 with its zone",
            details={"fields": {name: "is no time"}},
        )
    return moment.timestamp()


def _cursor(text: str) -> int:
    if not text.isdecimal() or len(text) > 20:  # noqa: PLR2004 - more digits than a sequence has
        raise InvalidRequestError("request.invalid", "cursor must be what an answer said")
    return int(text)


def _replay(raw: bytes) -> ReplayAsked:
    try:
        asked = _REPLAY.decode(raw or b"{}")
    except UNREADABLE as err:
        raise InvalidRequestError("request.invalid", f"the body is no replay: {err}") from err
    check_token(asked.id)
    if asked.cursor < 0:
        raise InvalidRequestError("request.invalid", "cursor must be what an answer said")
    return asked
