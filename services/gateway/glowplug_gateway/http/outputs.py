"""Routes of outputs: a container saves, the workspace lists and reads, anybody follows a signed address."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)
from glowplug_contracts.ids import check_id
from glowplug_contracts.messages.output import OUTPUT_PART_BYTES_MAX, OutputRecord

from glowplug_gateway.auth import Inside
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.filters import limit_of
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.output_links import (
    BYTES_TYPE,
    Span,
    UnsatisfiableError,
    check_link,
    headers_of,
    pieces_of,
    range_of,
)
from glowplug_gateway.outputs import Outputs, Shown, place_of, shown
from glowplug_gateway.ports import Time
from glowplug_gateway.records import Records

BODY_BYTES_MAX: Final = 1024 * 1024
CURSOR_CHARS_MAX: Final = 200
# Each holds one part in memory while its reader takes it.
DOWNLOADS_MAX: Final = 64
BUSY_RETRY_S: Final = 2.0
# A reader that takes nothing for so long is let go.
STALL_S: Final = 60.0
PIECE_BYTES: Final = 256 * 1024
# Who has the address has the file: a shared cache must not keep it longer than the address is good.
CACHE: Final = "private, max-age=60"

G = TypeVar("G")


class _Save(msgspec.Struct):
    name: str
    parts: list[str]


class _Address(msgspec.Struct):
    expires_s: float = 3_600.0


class OutputRoutes:
    """See the module. `origin` is where others reach this platform, for who asks from inside."""

    def __init__(
        self, outputs: Outputs, records: Records, clock: Time, origin: Callable[[], str]
    ) -> None:
        self._outputs = outputs
        self._records = records
        self._clock = clock
        self._origin = origin
        self._downloads = 0

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        one = "/api/v1/outputs/{output}"
        public = "/output/{output}/{name}"
        return (
            Route(
                method="POST",
                path="/api/v1/outputs/parts",
                action="output.write",
                summary="Store a piece of a file; only code inside a container.",
                on_request=self.on_part,
            ),
            Route(
                method="POST",
                path="/api/v1/outputs",
                action="output.write",
                summary='Save an output of the call whose code asks: {"name", "parts": [digest, …]}.',
                on_request=self.on_save,
            ),
            Route(
                method="GET",
                path="/api/v1/outputs",
                action="output.list",
                summary="List outputs, newest first; ?task=, ?cursor=, ?limit=.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path=one,
                action="output.read",
                summary="Show an output.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path=one,
                action="output.write",
                summary="Remove an output; its public addresses end.",
                on_request=self.on_remove,
            ),
            Route(
                method="GET",
                path=f"{one}/content",
                action="output.read",
                summary="Return an output's bytes; takes Range, or ?from= for the rest of them.",
                on_request=self.on_content,
                answers=BYTES_TYPE,
            ),
            Route(
                method="POST",
                path=f"{one}/url",
                action="output.read",
                summary='Return a public address: {"expires_s"}.',
                on_request=self.on_url,
            ),
            *(
                Route(
                    method=method,
                    path=public,
                    action="output.public",
                    summary="Return an output to who shows a signed address; takes Range.",
                    on_request=self.on_public,
                    access="open",
                    answers=BYTES_TYPE,
                )
                for method in ("GET", "HEAD")
            ),
        )

    async def on_part(self, exchange: Exchange) -> web.StreamResponse:
        """Store a piece."""
        inside = _inside(exchange)
        data = await body(exchange.request, OUTPUT_PART_BYTES_MAX)
        part = await self._outputs.take_part(inside.workspace, data)
        return answers.json(part, status=201)

    async def on_save(self, exchange: Exchange) -> web.StreamResponse:
        """Save."""
        inside = _inside(exchange)
        given = await _given(exchange, _Save, '{"name": "…", "parts": ["digest", …]}')
        kept_s = await self._result_kept_s(inside)
        record = await self._outputs.save(inside, given.name, given.parts, kept_s)
        return answers.json(shown(record), status=201)

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        limit = limit_of(exchange)
        after = _cursor(exchange.request.query.get("cursor", ""))
        found = await self._outputs.list(exchange.workspace, exchange.request.query.get("task", ""))
        rest = [one for one in found if after is None or place_of(one) < after]
        return answers.json({"outputs": rest[:limit], "cursor": _cursor_after(rest, limit)})

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show."""
        record = await self._outputs.find(exchange.path["output"], exchange.workspace)
        return answers.json(shown(record))

    async def on_remove(self, exchange: Exchange) -> web.StreamResponse:
        """Remove."""
        await self._outputs.remove(exchange.workspace, exchange.path["output"])
        return answers.json({"output_id": exchange.path["output"], "deleted": True})

    async def on_content(self, exchange: Exchange) -> web.StreamResponse:
        """Download with a token."""
        record = await self._outputs.find(exchange.path["output"], exchange.workspace)
        first = int(exchange.number("from", 0, 0, record.size))
        return await self._send(exchange, record, first)

    async def on_url(self, exchange: Exchange) -> web.StreamResponse:
        """Make an address."""
        given = await _given(exchange, _Address, '{"expires_s": 3600}')
        link = await self._outputs.link(
            exchange.workspace, exchange.path["output"], given.expires_s
        )
        origin = self._origin() if exchange.inside is not None else exchange.origin
        return answers.json({"url": origin + link.path, "expires_at": link.expires_at})

    async def on_public(self, exchange: Exchange) -> web.StreamResponse:
        """Download with an address. Nothing is looked up before the signature holds."""
        query = exchange.request.query
        output_id, name = exchange.path["output"], exchange.path["name"]
        shown_query = query.get("expires", ""), query.get("sig", "")
        key = await self._outputs.key()
        check_link(key, output_id, name, shown_query, self._clock.unix())
        record = await self._outputs.find(output_id)
        if record.name != name:
            raise NotFoundError("output.not_found", f"there is no output {output_id}")
        return await self._send(exchange, record)

    async def _result_kept_s(self, inside: Inside) -> float:
        """Return how long the result of a durable call may be there from now on, 0 for any other."""
        try:
            record = await self._records.show(inside.workspace, inside.parent)
        except (NotFoundError, InvalidRequestError):
            return 0.0
        return record.keep_result_s + max(0.0, record.timeout_s)

    async def _send(
        self, exchange: Exchange, record: OutputRecord, first: int = 0
    ) -> web.StreamResponse:
        request = exchange.request
        tag = f'"{record.output_id}"'
        wanted = request.headers.get("Range", "")
        if request.headers.get("If-Range", tag) != tag:
            wanted = ""
        try:
            span = range_of(wanted, record.size) if wanted else None
        except UnsatisfiableError as error:
            refused = answers.json({"error": answers.error_value(error)}, error.http_status)
            refused.headers["Content-Range"] = f"bytes */{record.size}"
            return refused
        if self._downloads >= DOWNLOADS_MAX:
            raise OverloadedError(
                "scheduler.overloaded",
                f"{DOWNLOADS_MAX} outputs are being read through this gateway",
                retry_after_s=BUSY_RETRY_S,
            )
        self._downloads += 1
        try:
            rest = Span(first, record.size)
            return await self._stream(exchange, record, span or rest, tag, partial=bool(span))
        finally:
            self._downloads -= 1

    async def _stream(
        self, exchange: Exchange, record: OutputRecord, sent: Span, tag: str, *, partial: bool
    ) -> web.StreamResponse:
        stream = answers.Stream(exchange, BYTES_TYPE)
        response = stream.response
        response.headers.update(headers_of(record.name))
        response.headers["Cache-Control"] = CACHE
        response.headers["ETag"] = tag
        response.content_length = sent.end - sent.first
        if partial:
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {sent.first}-{sent.end - 1}/{record.size}"
        if exchange.request.method == "HEAD":
            return await stream.end()
        for part, inner in pieces_of(record.parts, sent):
            data = memoryview(await self._outputs.part(record.workspace, part))[
                inner.first : inner.end
            ]
            await stream.start()
            for at in range(0, len(data), PIECE_BYTES):
                try:
                    async with asyncio.timeout(STALL_S):
                        await response.write(data[at : at + PIECE_BYTES])
                except TimeoutError as err:
                    raise ConnectionError("the reader takes nothing any more") from err
        return await stream.end()


def _inside(exchange: Exchange) -> Inside:
    if exchange.inside is None:
        raise ForbiddenError(
            "auth.forbidden",
            "outputs are saved by code that runs in a container; put a file of yours into a volume",
        )
    return exchange.inside


async def _given(exchange: Exchange, form: type[G], wanted: str) -> G:
    data = await body(exchange.request, BODY_BYTES_MAX)
    try:
        return msgspec.json.decode(data or b"{}", type=form)
    except UNREADABLE as err:
        raise InvalidRequestError("request.invalid", f"send {wanted}: {err}") from err


def _cursor_after(rows: Sequence[Shown], limit: int) -> str | None:
    if len(rows) <= limit:
        return None
    at, output_id = place_of(rows[limit - 1])
    return base64.urlsafe_b64encode(f"{at!r} {output_id}".encode()).decode()


def _cursor(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    try:
        said = base64.urlsafe_b64decode(text[:CURSOR_CHARS_MAX]).decode()
        at, _, output_id = said.partition(" ")
        return float(at), check_id("output", output_id)
    except (ValueError, binascii.Error, InvalidRequestError):
        raise InvalidRequestError(
            "request.invalid", "cursor must be what an earlier page said"
        ) from None
