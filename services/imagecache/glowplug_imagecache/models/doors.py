"""The HTTP door of uploads: what is missing of a listing, and pieces of it. For gateways only."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import WorkspaceId, check_token
from glowplug_contracts.manifests import WORKSPACE_HEADER
from glowplug_contracts.weights import LISTING_BYTES_MAX, PIECES_BYTES_MAX, PieceReader

from glowplug_imagecache.models.uploaded import UploadedWeights
from glowplug_imagecache.models.uploads import Uploads

READ_BYTES = 1024 * 1024
UPLOADS_MAX = 16


class ModelDoors:
    """See the module."""

    def __init__(self, uploaded: UploadedWeights, uploads: Uploads) -> None:
        self._uploaded = uploaded
        self._uploads = uploads
        self._room = asyncio.Semaphore(UPLOADS_MAX)

    def routes(self) -> tuple[web.RouteDef, ...]:
        """Return the routes."""
        return (
            web.post("/models/listing", self.take_listing),
            web.post("/models/pieces", self.take_pieces),
        )

    async def take_listing(self, request: web.Request) -> web.Response:
        """Keep a listing; answer its name and what is missing."""
        workspace = _owner(request)
        data = bytearray()
        async with self._room:
            async for piece in request.content.iter_chunked(READ_BYTES):
                data += piece
                _check_size(len(data), LISTING_BYTES_MAX)
            name, missing = await self._uploaded.take(workspace, bytes(data))
        body = msgspec.json.encode({"listing": name, "missing": missing})
        return web.Response(body=body, content_type="application/json")

    async def take_pieces(self, request: web.Request) -> web.Response:
        """Keep pieces; 201 when all of them are here."""
        workspace = _owner(request)
        reader = PieceReader()
        size = 0
        async with self._room:
            async for data in request.content.iter_chunked(READ_BYTES):
                size += len(data)
                _check_size(size, PIECES_BYTES_MAX)
                for digest, piece in reader.feed(data):
                    await asyncio.to_thread(self._uploads.put, workspace, digest, piece)
            reader.finish()
        return web.Response(status=201)


def _check_size(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise InvalidRequestError(
            "request.too_large", f"the body has over {bytes_max} bytes; send it in parts"
        )


def _owner(request: web.Request) -> WorkspaceId:
    return WorkspaceId(check_token(request.headers.get(WORKSPACE_HEADER, "")))
