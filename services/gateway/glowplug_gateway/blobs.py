"""Large bytes: the gateway's way to imagecache's content-addressed blobs.

Bytes pass through and are never kept here. imagecache verifies that they are what their name says, and
removes what nobody keeps any more: every blob is put with a lease of CALL_BLOBS_KEPT_S. What a version needs
is kept for ever once it is deployed, a durable call's arguments for as long as the call may need them.

Each workspace has blobs of its own: who knows the digest of another's gets nothing for it, and does not learn
that it is there.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import AsyncIterator, Iterable

import aiohttp
import msgspec
from blake3 import blake3
from glowplug_contracts.errors import (
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    QuotaExceededError,
    UnavailableError,
)
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.manifests import WORKSPACE_HEADER
from glowplug_contracts.messages.invocation import INLINE_BYTES_MAX, Format, Payload
from glowplug_runtime.replicas import Replicas

from glowplug_gateway.ports import ServiceUrls

FIND_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
# Of silence on the connection, not of the whole transfer: a blob may be large.
READ_TIMEOUT_S = 60.0
CONNECTIONS_MAX = 64
PIECE_BYTES = 256 * 1024
KEEP_HEADER = "X-Keep-Seconds"
KEEP_FOREVER = "forever"
# The lease of what may belong to a call. A source is uploaded with it, too: deploying keeps it for ever.
CALL_BLOBS_KEPT_S = 2 * 86_400
# imagecache refuses longer leases.
LEASE_S_MAX = 90 * 86_400

_MISSING = 404
_QUOTA = 429


@contextlib.asynccontextmanager
async def open_blobs(services: ServiceUrls, internal_token: str) -> AsyncIterator[Blobs]:
    """Yield the door to imagecache."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
    )
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {internal_token}"},
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
        auto_decompress=False,
    ) as session:
        yield Blobs(services, session)


class Blobs:
    """See the module."""

    def __init__(self, services: ServiceUrls, session: aiohttp.ClientSession) -> None:
        self._services = services
        self._session = session
        self._replicas = Replicas(lambda: services.urls("imagecache"))

    def of(self, workspace: WorkspaceId) -> OwnBlobs:
        """Return a workspace's blobs, and no others."""
        return OwnBlobs(self._services, self._replicas, self._session, workspace)


class OwnBlobs:
    """The blobs of one workspace."""

    def __init__(
        self,
        services: ServiceUrls,
        replicas: Replicas,
        session: aiohttp.ClientSession,
        workspace: WorkspaceId,
    ) -> None:
        self._services = services
        self._replicas = replicas
        self._session = session
        self._workspace = workspace

    async def put(self, digest: Digest, body: AsyncIterator[bytes] | io.BytesIO) -> None:
        """Store bytes under their name, leased for CALL_BLOBS_KEPT_S.

        Raises: InvalidRequestError (request.bad_digest) if they have another; UnavailableError.
        """
        async with self._send("PUT", digest, body, keep=str(CALL_BLOBS_KEPT_S)) as response:
            await _check(response, digest)

    async def renew(self, digest: Digest, keep_s: float = CALL_BLOBS_KEPT_S) -> bool:
        """Lease a blob for at least so long from now on; return whether it is stored."""
        return await self._keep(digest, str(min(LEASE_S_MAX, max(1, math.ceil(keep_s)))))

    async def lease(self, digest: Digest, keep_s: float) -> int | None:
        """Lease a blob as `renew` does; return its size, None if it is not stored."""
        keep = str(min(LEASE_S_MAX, max(1, math.ceil(keep_s))))
        async with self._send("HEAD", digest, keep=keep) as response:
            if response.status == _MISSING:
                return None
            await _check(response, digest)
            return int(response.headers["Content-Length"])

    async def keep(self, digest: Digest) -> bool:
        """Keep a blob for ever from now on; return whether it is stored."""
        return await self._keep(digest, KEEP_FOREVER)

    async def keep_all(self, digests: Iterable[Digest | None]) -> None:
        """Keep blobs for ever. Raises: InvalidRequestError (request.bad_digest) if one is not stored."""
        for digest in dict.fromkeys(digests):
            if digest is not None and not await self.keep(digest):
                raise not_stored(digest)

    async def _keep(self, digest: Digest, keep: str) -> bool:
        async with self._send("HEAD", digest, keep=keep) as response:
            if response.status == _MISSING:
                return False
            await _check(response, digest)
            return True

    @contextlib.asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Yield a blob's size (−1 unknown) and its pieces. Raises: NotFoundError."""
        async with self._send("GET", digest) as response:
            await _check(response, digest)
            size = response.content_length
            yield (-1 if size is None else size), response.content.iter_chunked(PIECE_BYTES)

    async def payload(self, data: bytes, form: Format) -> Payload:
        """Return a payload of these bytes: inline, or as a blob that is stored first."""
        if len(data) <= INLINE_BYTES_MAX:
            return Payload(format=form, data=data, size=len(data))
        digest = Digest(blake3(data).hexdigest())
        await self.put(digest, io.BytesIO(data))
        return Payload(format=form, blob=digest, size=len(data))

    async def bytes_of(self, payload: Payload) -> bytes:
        """Return a payload's bytes, fetched where they are a blob (results shown inside JSON)."""
        if payload.blob is None:
            return payload.data or b""
        async with self.open(payload.blob) as (_, pieces):
            return b"".join([piece async for piece in pieces])

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        digest: Digest,
        body: AsyncIterator[bytes] | io.BytesIO | None = None,
        *,
        keep: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {WORKSPACE_HEADER: str(self._workspace)}
        if keep is not None:
            headers[KEEP_HEADER] = keep
        url = ""
        try:
            response = None
            while response is None:
                url, before = await self._url(digest), url
                try:
                    response = await self._session.request(
                        method, f"{url}/blobs/{digest}", data=body, headers=headers
                    )
                except (TimeoutError, aiohttp.ClientError):
                    self._replicas.failed(url)
                    if body is not None or before:
                        raise  # some of the body may be gone; and two tries are enough
            async with response:
                yield response
        except (TimeoutError, aiohttp.ClientError) as err:
            raise UnavailableError(
                "platform.unavailable",
                f"imagecache: {method} of blob {digest}: {err!r}",
                retry_after_s=1,
            ) from err

    async def _url(self, digest: Digest) -> str:
        """Return whom to ask: the replica that has it in its cache, if there are several."""
        anybody = await self._services.wait_for("imagecache", FIND_TIMEOUT_S)
        return self._replicas.choose(digest) or anybody


def not_stored(digest: Digest) -> InvalidRequestError:
    """Return the error for a request that names a blob which is not there (any more)."""
    return InvalidRequestError(
        "request.bad_digest", f"blob {digest} is not stored: upload it first"
    )


class _Said(msgspec.Struct):
    message: str


class _Refused(msgspec.Struct):
    error: _Said


def _message(text: str) -> str:
    try:
        return msgspec.json.decode(text, type=_Refused).error.message
    except msgspec.MsgspecError:
        return text


async def _check(response: aiohttp.ClientResponse, digest: Digest) -> None:
    if response.ok:
        return
    said = (await response.content.read(2000)).decode(errors="replace")
    if response.status == _MISSING:
        raise NotFoundError("image.not_found", f"no blob {digest} is stored")
    if response.status in (400, 409, 422):
        raise InvalidRequestError("request.bad_digest", f"blob {digest}: {said}")
    if response.status == _QUOTA:
        raise QuotaExceededError("store.full", _message(said))
    message = f"imagecache answered {response.status} to blob {digest}: {said}"
    error = PlatformError if response.status < 500 else UnavailableError  # noqa: PLR2004
    raise error("platform.unavailable", message, retry_after_s=1)
