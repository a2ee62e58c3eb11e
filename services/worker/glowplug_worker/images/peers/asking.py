"""A source that asks other workers for a tree's objects first, and imagecache for whatever they don't give.

Nothing that a worker sends is believed: what is not what its name says ends the asking there, and is fetched elsewhere.
Workers that are gone, slow or busy cost one try.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import aiohttp
import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import (
    STORED_BYTES_MAX,
    BatchReader,
    ChunkFrame,
    encode_digests,
)

from glowplug_worker.images.mounts.sources import TreeSource, plain
from glowplug_worker.images.objects import digest_of
from glowplug_worker.images.peers.choice import PeerChoice

log = structlog.get_logger()

# Readers wait: whoever is slower than this for a batch is left for imagecache.
ANSWER_S: Final = 5.0
FIND_S: Final = 2.0
_OK: Final = 200

Find = Callable[[], Awaitable[Sequence[str]]]


class PeersFirst:
    """See the module.

    Args:
        find: says where workers that have the tree answer.
        session: shows them the internal token.

    Attributes:
        brought: bytes of objects that workers gave.
    """

    def __init__(self, source: TreeSource, find: Find, session: aiohttp.ClientSession) -> None:
        self._source, self._find, self._session = source, find, session
        self._choice = PeerChoice()
        self.brought = 0

    async def manifest(self, digest: Digest) -> bytes:
        """Return a manifest, of the source. Raises: as the source."""
        return await self._source.manifest(digest)

    async def fetch(self, digests: Sequence[Digest]) -> Iterable[tuple[Digest, bytes]]:
        """Return objects, of another worker and of the source. Raises: as the source, if nobody gave any."""
        found = await self._of_peer(digests) if digests else {}
        left = [digest for digest in digests if digest not in found]
        if not left:
            return found.items()
        try:
            return [*found.items(), *await self._source.fetch(left)]
        except PlatformError as error:
            if not found:
                raise
            log.warning("objects.missed", error=str(error), count=len(left))
            return found.items()

    async def _of_peer(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        if self._choice.due(time.monotonic()):
            await self._look()
        url = self._choice.choose(digests[0], time.monotonic())
        if url is None:
            return {}
        try:
            async with asyncio.timeout(ANSWER_S):
                frames = await self._ask(url, digests)
        except (aiohttp.ClientError, TimeoutError, PlatformError) as error:
            self._choice.failed(url, time.monotonic())
            log.info("peers.failed", url=url, error=str(error) or type(error).__name__)
            return {}
        found = await asyncio.to_thread(_verified, frames)
        self.brought += sum(map(len, found.values()))
        if any(frame.stored is not None and frame.digest not in found for frame in frames):
            self._choice.lied(url)
            log.warning("peers.lied", url=url)
        elif len(found) < len(digests):
            self._choice.failed(url, time.monotonic())
        return found

    async def _look(self) -> None:
        """Have it known who has the tree; while nobody tells, whoever was told of last does."""
        try:
            async with asyncio.timeout(FIND_S):
                self._choice.told(await self._find())
        except (PlatformError, TimeoutError) as error:
            log.info("peers.unknown", error=str(error) or type(error).__name__)

    async def _ask(self, url: str, digests: Sequence[Digest]) -> list[ChunkFrame]:
        """Return what a worker sends, of what it was asked for. Raises: ClientError, PlatformError."""
        asked, room = set(digests), len(digests) * STORED_BYTES_MAX
        reader, frames = BatchReader(), []
        body = encode_digests(digests)
        async with self._session.post(f"{url}/chunks/get", data=body, allow_redirects=False) as got:
            if got.status != _OK:
                raise aiohttp.ClientPayloadError(f"it answered {got.status}")
            async for data in got.content.iter_any():
                room -= len(data)
                if room < 0:
                    raise aiohttp.ClientPayloadError("it sends more than was asked for")
                frames += [frame for frame in reader.feed(data) if frame.digest in asked]
        reader.finish()
        return frames


def _verified(frames: Iterable[ChunkFrame]) -> dict[Digest, bytes]:
    found: dict[Digest, bytes] = {}
    for frame in frames:
        data = plain(frame)
        if data and digest_of(data) == frame.digest:
            found[frame.digest] = data
    return found
