"""Keeps recent small blobs in memory: arguments that many inputs share are fetched once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from glowplug_contracts.ids import Digest, WorkspaceId

from glowplug_worker.ports import CALL_BLOBS_KEPT_S, Blobs

CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
CACHED_BLOB_BYTES_MAX: Final = 16 * 1024 * 1024


class CachedBlobs:
    """`ports.Blobs` with a cache of at most 64 MiB in front; the least recently used go first."""

    def __init__(self, store: Blobs) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[WorkspaceId, Digest], bytes] = OrderedDict()
        self._kept_bytes = 0

    async def get(self, digest: Digest, owner: WorkspaceId) -> bytes:
        """Return the verified bytes; what is in memory is there for its owner only."""
        key = (owner, digest)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        data = await self._store.get(digest, owner)
        if key not in self._kept and len(data) <= CACHED_BLOB_BYTES_MAX:
            self._kept[key] = data
            self._kept_bytes += len(data)
            while self._kept_bytes > CACHE_BYTES_MAX:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return data

    async def put(
        self, data: bytes, owner: WorkspaceId, keep_s: float = CALL_BLOBS_KEPT_S
    ) -> Digest:
        """Store the bytes; return their name. Results are not kept here: who reads them is elsewhere."""
        return await self._store.put(data, owner, keep_s)
