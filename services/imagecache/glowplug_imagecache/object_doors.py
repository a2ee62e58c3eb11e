"""The HTTP doors through which members of a cluster reach this one's share of objects.

Raw: what is behind them is files by path. Who asks verifies what comes, and what is put is verified by whoever
reads it. They have threads of their own, which never wait for another member: else two that ask each other could
wait for ever.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Final, TypeVar

import msgspec
from aiohttp import web
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import InvalidRequestError, NotFoundError

from glowplug_imagecache.places import Thing
from glowplug_imagecache.raw_shelf import PIECE_BYTES, RawShelf

THREADS: Final = 8
LISTED_MAX: Final = 5000
DELETED_MAX: Final = 1000
# What is larger goes through the disk on its way in.
MEMORY_BYTES: Final = 2 * 1024 * 1024
TIME_HEADER: Final = "X-Written-At"

T = TypeVar("T")
_PATHS: Final = msgspec.msgpack.Decoder(list[str])


class ObjectDoors:
    """See the module."""

    def __init__(self, shelf: RawShelf, bytes_max: int) -> None:
        self._shelf = shelf
        self._bytes_max = bytes_max
        self._threads = ThreadPoolExecutor(THREADS, "objects")

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to the service's HTTP application."""
        return [
            web.get("/objects", self.listed),
            web.post("/objects", self.delete),
            web.put("/objects/{path:.+}", self.put),
            web.get("/objects/{path:.+}", self.get, allow_head=False),
            web.head("/objects/{path:.+}", self.head),
        ]

    def close(self) -> None:
        """Let its threads go."""
        self._threads.shutdown(wait=False)

    async def put(self, request: web.Request) -> web.Response:
        """Take an object; 201 when it is durable."""
        with SpooledTemporaryFile(MEMORY_BYTES) as body:
            size = 0
            async for piece in request.content.iter_chunked(PIECE_BYTES):
                size += len(piece)
                if size > self._bytes_max:
                    raise InvalidRequestError("request.too_large", "the object is too large")
                await self._do(partial(body.write, piece))
            if request.content_length is not None and size != request.content_length:
                raise InvalidRequestError("request.invalid", "the object was cut off")
            body.seek(0)
            await self._do(lambda: self._shelf.put(request.match_info["path"], body))
        return web.Response(status=201)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send an object."""
        path = request.match_info["path"]
        file = await self._do(lambda: self._shelf.open(path))
        if file is None:
            raise _not_here(path)
        with file:
            size = await self._do(lambda: _size(file))
            answer = web.StreamResponse(headers={"Content-Length": str(size)})
            await answer.prepare(request)
            while piece := await self._do(lambda: file.read(PIECE_BYTES)):
                await answer.write(piece)
            await answer.write_eof()
        return answer

    async def head(self, request: web.Request) -> web.Response:
        """Say how long an object is and when it was written."""
        path = request.match_info["path"]
        found = await self._do(lambda: self._shelf.head(path))
        if found is None:
            raise _not_here(path)
        return web.Response(
            headers={"Content-Length": str(found.size), TIME_HEADER: repr(found.at)}
        )

    async def listed(self, request: web.Request) -> web.Response:
        """Answer with the next objects of a folder; fewer than LISTED_MAX are the last."""
        folder, after = request.query.get("folder", ""), request.query.get("after", "")

        def some() -> list[Thing]:
            return list(itertools.islice(self._shelf.walk(folder, after), LISTED_MAX))

        found = [(one.path, one.size, one.at) for one in await self._do(some)]
        return web.Response(body=encode(found, "msgpack"), content_type="application/msgpack")

    async def delete(self, request: web.Request) -> web.Response:
        """Remove objects."""
        try:
            paths = _PATHS.decode(await request.read())
        except msgspec.MsgspecError as err:
            raise InvalidRequestError("request.invalid", f"no list of paths: {err}") from err
        if len(paths) > DELETED_MAX:
            raise InvalidRequestError("request.too_large", f"at most {DELETED_MAX} paths at once")
        await self._do(lambda: self._shelf.delete(paths))
        return web.Response(status=204)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _size(file: IO[bytes]) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


def _not_here(path: str) -> NotFoundError:
    return NotFoundError("blob.not_found", f"no object {path[:100]} is here")
