"""Routes of volumes. A file's path stands in the query; bytes stream both ways, in threads."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError

from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.door import too_large
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.volumes import Volumes

BYTES_TYPE = "application/octet-stream"
PIECE_BYTES = 256 * 1024
BODY_BYTES_MAX = 16 * 1024


class _Named(msgspec.Struct):
    name: str


_NAMED = msgspec.json.Decoder(_Named)


class VolumeRoutes:
    """See the module."""

    def __init__(self, volumes: Volumes, *, file_bytes_max: int) -> None:
        self._volumes = volumes
        self._file_bytes_max = file_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        file = "/api/v1/volumes/{volume}/file"
        return (
            Route(
                method="GET",
                path="/api/v1/volumes",
                action="volume.list",
                summary="List volumes.",
                on_request=self.on_list,
            ),
            Route(
                method="POST",
                path="/api/v1/volumes",
                action="volume.write",
                summary='Make a volume: {"name"}; one that is there stays as it is.',
                on_request=self.on_create,
            ),
            Route(
                method="DELETE",
                path="/api/v1/volumes/{volume}",
                action="volume.write",
                summary="Remove a volume with everything in it.",
                on_request=self.on_delete,
            ),
            Route(
                method="GET",
                path="/api/v1/volumes/{volume}/usage",
                action="volume.read",
                summary="Count what is in a volume, and say what may be.",
                on_request=self.on_usage,
            ),
            Route(
                method="GET",
                path="/api/v1/volumes/{volume}/files",
                action="volume.read",
                summary="List ?path=; ?recursive=1 goes into folders.",
                on_request=self.on_entries,
            ),
            Route(
                method="GET",
                path=file,
                action="volume.read",
                summary="Return the file at ?path=.",
                on_request=self.on_read,
                answers=BYTES_TYPE,
            ),
            Route(
                method="PUT",
                path=file,
                action="volume.write",
                summary="Write the file at ?path=; it appears whole or not at all.",
                on_request=self.on_write,
            ),
            Route(
                method="DELETE",
                path=file,
                action="volume.write",
                summary="Remove ?path=; ?recursive=1 removes a folder.",
                on_request=self.on_remove,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        found = await asyncio.to_thread(self._volumes.every, exchange.workspace)
        return answers.json({"volumes": found})

    async def on_create(self, exchange: Exchange) -> web.StreamResponse:
        """Create."""
        data = await body(exchange.request, BODY_BYTES_MAX)
        try:
            name = _NAMED.decode(data).name
        except UNREADABLE as err:
            raise InvalidRequestError("request.invalid", f'send {{"name": "…"}}: {err}') from err
        made = await asyncio.to_thread(self._volumes.ensure, exchange.workspace, name)
        return answers.json({"name": name, "created": made})

    async def on_delete(self, exchange: Exchange) -> web.StreamResponse:
        """Delete."""
        name = exchange.path["volume"]
        await asyncio.to_thread(self._volumes.delete, exchange.workspace, name)
        return answers.json({"name": name, "deleted": True})

    async def on_usage(self, exchange: Exchange) -> web.StreamResponse:
        """Count."""
        name = exchange.path["volume"]
        usage, quota = await asyncio.to_thread(self._volumes.usage, exchange.workspace, name)
        return answers.json(
            {
                "name": name,
                "files": usage.files,
                "bytes": usage.bytes,
                "complete": usage.complete,
                "files_max": quota.files_max or None,
                "bytes_max": quota.bytes_max or None,
            }
        )

    async def on_entries(self, exchange: Exchange) -> web.StreamResponse:
        """List files."""
        path, deep = exchange.request.query.get("path", ""), exchange.flag("recursive")
        found = await asyncio.to_thread(
            lambda: self._volumes.entries(
                exchange.workspace, exchange.path["volume"], path, deep=deep
            )
        )
        return answers.json({"files": found})

    async def on_read(self, exchange: Exchange) -> web.StreamResponse:
        """Download."""
        path = exchange.request.query.get("path", "")
        file, size = await asyncio.to_thread(
            self._volumes.open_file, exchange.workspace, exchange.path["volume"], path
        )
        with file:
            stream = answers.Stream(exchange, BYTES_TYPE)
            stream.response.content_length = size
            await stream.start()
            left = size
            while left > 0:
                piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, left))
                if not piece:
                    raise ConnectionError("the file became shorter while it was sent")
                left -= len(piece)
                await stream.response.write(piece)
            return await stream.end()

    async def on_write(self, exchange: Exchange) -> web.StreamResponse:
        """Upload."""
        path, request = exchange.request.query.get("path", ""), exchange.request
        if (length := request.content_length) is not None and length > self._file_bytes_max:
            raise too_large(f"a file may have {self._file_bytes_max} bytes, not {length}")
        size = 0
        claim = await asyncio.to_thread(
            self._volumes.claim, exchange.workspace, exchange.path["volume"], path
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(claim)
            writing = self._volumes.writing(exchange.workspace, exchange.path["volume"], path)
            file = await asyncio.to_thread(writing.__enter__)

            async def leave(*failure: object) -> None:
                await asyncio.shield(asyncio.to_thread(writing.__exit__, *failure))  # type: ignore[arg-type]

            stack.push_async_exit(leave)
            async for piece in request.content.iter_chunked(PIECE_BYTES):
                size += len(piece)
                claim.more(len(piece))
                if size > self._file_bytes_max:
                    raise too_large(f"a file may have {self._file_bytes_max} bytes")
                await asyncio.to_thread(file.write, piece)
        return answers.json({"path": path, "size": size})

    async def on_remove(self, exchange: Exchange) -> web.StreamResponse:
        """Remove."""
        path, deep = exchange.request.query.get("path", ""), exchange.flag("recursive")
        await asyncio.to_thread(
            lambda: self._volumes.remove(
                exchange.workspace, exchange.path["volume"], path, deep=deep
            )
        )
        return answers.json({"path": path, "deleted": True})
