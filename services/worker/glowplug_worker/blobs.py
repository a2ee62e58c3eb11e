"""Large arguments and results over imagecache's HTTP, verified by digest, recent ones kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import aiohttp
from blake3 import blake3
from glowplug_contracts.errors import ContractError, NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest

CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
CACHED_BLOB_BYTES_MAX: Final = 16 * 1024 * 1024
TIMEOUT_S: Final = 120.0
_NOT_FOUND = 404


class HttpBlobs:
    """See `ports.Blobs`. The cache holds arguments that many inputs share, within a bound.

    Args:
        session: open for the life of the service.
        url: returns where imagecache answers now, or None.
        token: the internal bearer token.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: Callable[[], str | None], token: str
    ) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._cache: OrderedDict[Digest, bytes] = OrderedDict()
        self._cache_bytes = 0

    async def get(self, digest: Digest) -> bytes:
        """Return the verified bytes."""
        if (kept := self._cache.get(digest)) is not None:
            self._cache.move_to_end(digest)
            return kept
        data = await self._fetch("GET", digest)
        if blake3(data).hexdigest() != digest:
            raise ContractError("image.corrupt", f"blob {digest} has other bytes than its name")
        self._keep(digest, data)
        return data

    async def put(self, data: bytes) -> Digest:
        """Store the bytes; return their name."""
        digest = Digest(blake3(data).hexdigest())
        await self._fetch("PUT", digest, data)
        return digest

    async def _fetch(self, method: str, digest: Digest, data: bytes | None = None) -> bytes:
        url = self._url()
        if url is None:
            raise UnavailableError(
                "platform.unavailable", "no imagecache service is ready", retry_after_s=1
            )
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.request(
                method, f"{url}/blobs/{digest}", data=data, headers=self._headers, timeout=timeout
            ) as answer:
                body = await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(
                "platform.unavailable", f"imagecache: {method} blob: {error!r}", retry_after_s=1
            ) from error
        if answer.status == _NOT_FOUND:
            raise NotFoundError("image.not_found", f"blob {digest} is not kept any more")
        if not answer.ok:
            raise UnavailableError(
                "platform.unavailable",
                f"imagecache answered {answer.status} to {method} blob",
                retry_after_s=1,
            )
        return body

    def _keep(self, digest: Digest, data: bytes) -> None:
        if len(data) > CACHED_BLOB_BYTES_MAX:
            return
        self._cache[digest] = data
        self._cache_bytes += len(data)
        while self._cache_bytes > CACHE_BYTES_MAX:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= len(dropped)
