"""The HTTP door: blobs and chunks, for the platform's own services.

Workers fetch and push images here, gateways pass users' blobs through. The protocol is in
`contracts/manifests.py`. Memory is bounded: a blob is a stream of 1 MiB pieces, a batch is at most
BATCH_BYTES_MAX at a time, and at most STREAMS_MAX requests move bytes at once; the rest wait.
Hashing, compression and the disk are in threads. It must never trust a name: the store verifies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import (
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    UnauthenticatedError,
)
from glowplug_contracts.ids import WorkspaceId, check_digest, check_token
from glowplug_contracts.manifests import (
    BATCH_BYTES_MAX,
    BATCH_CHUNKS_MAX,
    DIGESTS_ASKED_MAX,
    WORKSPACE_HEADER,
    BatchReader,
    ChunkFrame,
    batch_parts,
    decode_digests,
)
from glowplug_runtime.clock import Clock
from glowplug_runtime.http import check_internal, error_response

from glowplug_imagecache.quota import Quota
from glowplug_imagecache.store import Store, Upload

log = structlog.get_logger(__name__)

PIECE_BYTES = 1024 * 1024
STREAMS_MAX = 16
KEEP_HEADER = "X-Keep-Seconds"
KEEP_FOREVER = "forever"
KEEP_SECONDS_MAX = 90 * 86_400
DIGESTS_BODY_MAX = DIGESTS_ASKED_MAX * 80

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    store: Store,
    clock: Clock,
    token: str,
    more: Iterable[web.RouteDef] = (),
    quota: Quota | None = None,
) -> web.Application:
    """Return the service's HTTP application, `more` routes with it.

    `token` is what callers must show. Without one the door lets nobody in. Without a `quota`, workspaces
    have none.
    """
    doors = _Doors(store, clock, quota)
    app = web.Application(middlewares=[_guard(token)], client_max_size=DIGESTS_BODY_MAX)
    app.router.add_put("/blobs/{digest}", doors.put_blob)
    app.router.add_get("/blobs/{digest}", doors.get_blob, allow_head=False)
    app.router.add_head("/blobs/{digest}", doors.head_blob)
    app.router.add_post("/chunks/missing", doors.missing_chunks)
    app.router.add_post("/chunks/put", doors.put_chunks)
    app.router.add_post("/chunks/get", doors.get_chunks)
    app.add_routes(more)
    return app


def _guard(token: str) -> Middleware:
    @web.middleware
    async def guarded(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        try:
            if not token:
                raise UnauthenticatedError("auth.no_token", "imagecache was given no token file")
            check_internal(request, token)
            return await handler(request)
        except PlatformError as error:
            log.info("http.refused", path=request.path, code=error.code, reason=str(error))
            return error_response(error)

    return guarded


class _Doors:
    """The endpoints."""

    def __init__(self, store: Store, clock: Clock, quota: Quota | None) -> None:
        self._store = store
        self._quota = quota
        self._clock = clock
        self._streams = asyncio.Semaphore(STREAMS_MAX)

    async def put_blob(self, request: web.Request) -> web.Response:
        """Take a blob; 201 when it is safe. X-Keep-Seconds leases it; without (or "forever"), it stays."""
        digest = check_digest(request.match_info["digest"])
        owner = _owner(request)
        keep_until = self._keep_until(request)
        if self._quota is not None:
            await self._quota.check(owner, request.content_length or 0)
        async with self._streams:
            upload = await asyncio.to_thread(
                self._store.open_upload, digest, request.content_length, owner
            )
            with upload:
                await _receive(request, upload)
                await asyncio.to_thread(upload.finish, keep_until)
        if self._quota is not None and request.content_length is None:
            self._quota.add(owner, upload.size)
        return web.Response(status=201)

    async def get_blob(self, request: web.Request) -> web.StreamResponse:
        """Send a blob whose bytes were verified just before."""
        digest = check_digest(request.match_info["digest"])
        owner = _owner(request)
        async with self._streams:
            path = await asyncio.to_thread(self._store.blob_path, digest, owner)
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    async def head_blob(self, request: web.Request) -> web.Response:
        """Say whether a blob is here and how long it is.

        With X-Keep-Seconds its lease is extended; "forever" ends the lease and keeps the blob.
        """
        digest = check_digest(request.match_info["digest"])
        owner = _owner(request)
        if request.headers.get(KEEP_HEADER) == KEEP_FOREVER:
            await asyncio.to_thread(self._store.keep, digest, owner)
        elif (keep_until := self._keep_until(request)) is not None:
            await asyncio.to_thread(self._store.extend, digest, keep_until, owner)
        size = await asyncio.to_thread(self._store.blob_size, digest, owner)
        if size is None:
            raise NotFoundError("blob.not_found", f"no blob {digest} is kept here")
        return web.Response(headers={"Content-Length": str(size)})

    async def missing_chunks(self, request: web.Request) -> web.Response:
        """Answer which of the digests are not here."""
        digests = decode_digests(await request.read())
        missing = await asyncio.to_thread(self._store.missing, digests)
        return web.Response(body=encode(missing, "msgpack"), content_type="application/msgpack")

    async def put_chunks(self, request: web.Request) -> web.Response:
        """Take a batch; 201 when every chunk of it is safe."""
        reader = BatchReader()
        held: list[ChunkFrame] = []
        held_bytes = 0
        async with self._streams:
            async for data in request.content.iter_chunked(PIECE_BYTES):
                for frame in reader.feed(data):
                    held.append(frame)
                    held_bytes += len(frame.stored or b"")
                if held_bytes >= BATCH_BYTES_MAX or len(held) >= BATCH_CHUNKS_MAX:
                    await asyncio.to_thread(self._store.put_chunks, held)
                    held, held_bytes = [], 0
            reader.finish()
            await asyncio.to_thread(self._store.put_chunks, held)
        return web.Response(status=201)

    async def get_chunks(self, request: web.Request) -> web.StreamResponse:
        """Send the chunks asked for, in that order; one that is not here is framed as missing."""
        frames = self._store.chunks(decode_digests(await request.read()))
        answer = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        async with self._streams:
            await answer.prepare(request)
            while batch := await asyncio.to_thread(self._read_batch, frames):
                await answer.write(batch)
            await answer.write_eof()
        return answer

    def _read_batch(self, frames: Iterator[ChunkFrame]) -> bytes:
        parts: list[bytes] = []
        size = 0
        for frame in frames:
            added = batch_parts(frame)
            parts += added
            size += sum(map(len, added))
            if size >= BATCH_BYTES_MAX // 2:
                break
        return b"".join(parts)

    def _keep_until(self, request: web.Request) -> float | None:
        text = request.headers.get(KEEP_HEADER, KEEP_FOREVER)
        if text == KEEP_FOREVER:
            return None
        if not text.isascii() or not text.isdigit() or not 0 < int(text) <= KEEP_SECONDS_MAX:
            raise InvalidRequestError(
                "request.invalid", f"{KEEP_HEADER} is 1 to {KEEP_SECONDS_MAX}, not {text[:40]!r}"
            )
        return self._clock.unix() + int(text)


def _owner(request: web.Request) -> WorkspaceId | None:
    """Return whose blob is meant, None = the platform's own."""
    text = request.headers.get(WORKSPACE_HEADER)
    return None if text is None else WorkspaceId(check_token(text))


async def _receive(request: web.Request, upload: Upload) -> None:
    async for data in request.content.iter_chunked(PIECE_BYTES):
        await asyncio.to_thread(upload.write, data)
