"""Blobs pass through: the gateway adds who may, imagecache verifies what."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import check_digest

from glowplug_gateway.blobs import PIECE_BYTES, Blobs
from glowplug_gateway.http import answers
from glowplug_gateway.http.door import too_large
from glowplug_gateway.http.route import Exchange, Route

BYTES_TYPE = "application/octet-stream"

_MISSING = 404


class BlobRoutes:
    """See the module."""

    def __init__(self, blobs: Blobs, *, blob_bytes_max: int) -> None:
        self._blobs = blobs
        self._blob_bytes_max = blob_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="PUT",
                path="/api/v1/blobs/{digest}",
                action="blob.write",
                summary="Store bytes under their BLAKE3 name.",
                on_request=self.on_put,
            ),
            Route(
                method="HEAD",
                path="/api/v1/blobs/{digest}",
                action="blob.read",
                summary="Say whether a blob is stored.",
                on_request=self.on_head,
            ),
            Route(
                method="GET",
                path="/api/v1/blobs/{digest}",
                action="blob.read",
                summary="Return a blob.",
                on_request=self.on_get,
                answers=BYTES_TYPE,
            ),
        )

    async def on_put(self, exchange: Exchange) -> web.StreamResponse:
        """Store."""
        digest = check_digest(exchange.path["digest"])
        length = exchange.request.content_length
        if length is not None and length > self._blob_bytes_max:
            raise too_large(f"a blob may have {self._blob_bytes_max} bytes, not {length}")
        body = _Bounded(exchange.request, self._blob_bytes_max)
        try:
            await self._blobs.of(exchange.workspace).put(digest, body.pieces())
        except UnavailableError:
            if body.exceeded:  # what broke off was our own doing: to come again would not help
                raise too_large(f"a blob may have {self._blob_bytes_max} bytes") from None
            raise
        return answers.json({"digest": digest})

    async def on_head(self, exchange: Exchange) -> web.StreamResponse:
        """Look. Who finds it may go on to use it without sending it again: its lease begins anew."""
        digest = check_digest(exchange.path["digest"])
        found = await self._blobs.of(exchange.workspace).renew(digest)
        return web.Response(status=200 if found else _MISSING)

    async def on_get(self, exchange: Exchange) -> web.StreamResponse:
        """Fetch."""
        digest = check_digest(exchange.path["digest"])
        stream = answers.Stream(exchange, BYTES_TYPE)
        async with self._blobs.of(exchange.workspace).open(digest) as (size, pieces):
            if size >= 0:
                stream.response.content_length = size
            await stream.start()
            async for piece in pieces:
                await stream.response.write(piece)
        return await stream.end()


class _Bounded:
    """A body in pieces, cut off where it is longer than may be."""

    def __init__(self, request: web.BaseRequest, bytes_max: int) -> None:
        self._request = request
        self._bytes_max = bytes_max
        self.exceeded = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises: InvalidRequestError (request.too_large)."""
        total = 0
        async for piece in self._request.content.iter_chunked(PIECE_BYTES):
            total += len(piece)
            if total > self._bytes_max:
                self.exceeded = True
                raise too_large(f"a blob may have {self._bytes_max} bytes")
            yield piece
