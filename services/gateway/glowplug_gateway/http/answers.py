"""Ways to answer: JSON, lines of JSON, and frames; each line or frame goes out as it is made."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.messages.http import FRAMES_TYPE
from glowplug_contracts.messages.image import BuildProgress

from glowplug_gateway.http.door import TRACE_ANSWER
from glowplug_gateway.http.route import Exchange

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
SSE_TYPE = "text/event-stream"

_ENCODER = msgspec.json.Encoder()


def json(value: object, status: int = 200) -> web.Response:
    """Answer a value; messages may stand in it as they are."""
    return web.Response(body=_ENCODER.encode(value), status=status, content_type=JSON_TYPE)


def error_value(error: PlatformError) -> dict[str, object]:
    """Return an error as it stands in lines and bodies."""
    return {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "retry_after_s": error.retry_after_s,
    }


class Stream:
    """An answer that goes out piece by piece; its head goes out with the first one or `start`."""

    def __init__(self, exchange: Exchange, content_type: str) -> None:
        self._exchange = exchange
        self.response = web.StreamResponse(
            headers={
                "Content-Type": content_type,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        if exchange.span is not None:
            self.response.headers[TRACE_ANSWER] = exchange.span.trace_id

    async def start(self) -> None:
        """Send the head."""
        if not self.response.prepared:
            self._exchange.started = self.response
            await self.response.prepare(self._exchange.request)

    async def line(self, value: object) -> None:
        """Send a value as a line of JSON."""
        await self.start()
        await self.response.write(_ENCODER.encode(value) + b"\n")

    async def frame(self, message: object) -> None:
        """Send a message as a frame."""
        await self.start()
        body = encode(message, "msgpack")
        await self.response.write(len(body).to_bytes(4) + body)

    async def item(self, message: object) -> None:
        """Send a message as a line or a frame, as the answer's type says."""
        if self.response.content_type == NDJSON_TYPE:
            await self.line(message)
        else:
            await self.frame(message)

    async def event(self, data: bytes, name: str = "", event_id: str = "") -> None:
        """Send a server-sent event; `data` is one line."""
        await self.start()
        head = f"id: {event_id}\n".encode() if event_id else b""
        head += f"event: {name}\n".encode() if name else b""
        await self.response.write(head + b"data: " + data + b"\n\n")

    async def beat(self) -> None:
        """Send a comment between server-sent events, so that nobody takes the silence for an end."""
        await self.start()
        await self.response.write(b": still here\n\n")

    async def end(self) -> web.StreamResponse:
        """Close the answer."""
        await self.start()
        await self.response.write_eof()
        return self.response


def frames(exchange: Exchange) -> Stream:
    """Return an answer of frames."""
    return Stream(exchange, FRAMES_TYPE)


def wants_json(exchange: Exchange) -> bool:
    """Return whether the asker reads JSON and lines of JSON rather than msgpack."""
    return JSON_TYPE in exchange.request.headers.get("Accept", "")


def items(exchange: Exchange) -> Stream:
    """Return an answer of frames, or of lines for who asked for JSON."""
    return Stream(exchange, NDJSON_TYPE if wants_json(exchange) else FRAMES_TYPE)


@contextlib.asynccontextmanager
async def lines(exchange: Exchange) -> AsyncIterator[Stream]:
    """Yield an answer of JSON lines; an error before the first line is a status, later a line."""
    stream = Stream(exchange, NDJSON_TYPE)
    try:
        yield stream
    except PlatformError as error:
        if not stream.response.prepared:
            raise
        await stream.line({"event": "error", "error": error_value(error)})


def image_event(progress: BuildProgress) -> dict[str, object]:
    """Return what a line says of an image that is being made."""
    event: dict[str, object] = {
        "event": "image",
        "kind": progress.kind,
        "text": progress.text,
        "cached": progress.cached,
    }
    if progress.bytes_total:
        event |= {"bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total}
    return event
