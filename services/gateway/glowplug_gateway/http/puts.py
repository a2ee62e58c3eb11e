"""Much durable work in one request: each piece is stored or refused for itself."""

from __future__ import annotations

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError, PlatformError
from glowplug_contracts.messages.http import PUTS_MAX, PutManyRequest
from glowplug_contracts.messages.invocation import INLINE_BYTES_MAX
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.door import too_large
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.intake import Intake

_PUTS = msgspec.msgpack.Decoder(PutManyRequest)


class PutRoutes:
    """See the module."""

    def __init__(self, catalog: Catalog, intake: Intake, *, body_bytes_max: int) -> None:
        self._catalog = catalog
        self._intake = intake
        self._body_bytes_max = body_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/api/v1/deployments/{deployment}/spawn-many",
                action="invocation.spawn",
                summary="Accept much durable work together (msgpack); each piece has its own answer.",
                on_request=self.on_put_many,
                traced=True,
                status=202,
            ),
        )

    async def on_put_many(self, exchange: Exchange) -> web.StreamResponse:
        """Accept durable work."""
        deployment = await self._catalog.to_call(exchange.workspace, exchange.path["deployment"])
        asked = _puts(await body(exchange.request, self._body_bytes_max))
        accepted = await self._intake.accept_many(deployment, asked.puts, exchange.trace)
        return answers.json({"tasks": [_value(one) for one in accepted]}, status=202)


def _puts(data: bytes) -> PutManyRequest:
    try:
        asked = _PUTS.decode(data)
    except UNREADABLE as err:
        raise InvalidRequestError("request.invalid", f"the body is no request: {err}") from err
    if not 0 < len(asked.puts) <= PUTS_MAX:
        raise InvalidRequestError(
            "request.invalid", f"one request holds 1 to {PUTS_MAX} puts, not {len(asked.puts)}"
        )
    for put in asked.puts:
        if (put.args.data is None) == (put.args.blob is None):
            raise InvalidRequestError("request.invalid", "a put holds data or names a blob")
        if len(put.args.data or b"") > INLINE_BYTES_MAX:
            raise too_large(f"arguments over {INLINE_BYTES_MAX} bytes must be a blob")
    return asked


def _value(one: InvocationRecord | PlatformError) -> dict[str, object]:
    if isinstance(one, PlatformError):
        return {"error": answers.error_value(one)}
    return {"task_id": one.invocation_id}
