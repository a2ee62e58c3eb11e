"""The door at which a worker gives other workers objects of the trees that are all here.

`POST /chunks/get` as imagecache has it, for whoever shows the internal token: digests in, frames out. Only what is
asked for by its digest, and is that when it is read again, leaves. At most so many answers at once and so many bytes
a second: who comes beyond that is refused at once, and asks imagecache.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
import zstandard
from aiohttp import web
from glowplug_contracts.errors import PlatformError, UnauthenticatedError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame, batch_bytes, decode_digests
from glowplug_contracts.tree_rules import decode_tree
from glowplug_runtime.clock import Clock
from glowplug_runtime.http import check_internal, error_response

from glowplug_worker.images.mounts.daemon.beside import Place, read_verified
from glowplug_worker.images.mounts.daemon.served import places_of
from glowplug_worker.images.mounts.files import Whole
from glowplug_worker.images.objects import check_blob
from glowplug_worker.images.peers.pace import Pace

log = structlog.get_logger()

# Read, compressed and sent together.
GROUP_OBJECTS: Final = 8
BODY_BYTES_MAX: Final = 1 << 20
# Who takes an answer more slowly is cut off: others wait for its place.
GIVE_S: Final = 30.0
# Machines are near each other: little work for each byte.
_LEVEL: Final = 1


class PeerDoor:
    """See the module.

    Args:
        whole: says which trees are all here now.
        streams: answers at once.
        bytes_per_s: of all answers together; 0 = not limited.

    Attributes:
        given: bytes of objects that were given out.
    """

    def __init__(
        self,
        whole: Callable[[], Mapping[Digest, Whole]],
        clock: Clock,
        token: str,
        *,
        streams: int,
        bytes_per_s: int,
    ) -> None:
        self._whole, self._clock, self._token = whole, clock, token
        self._streams = streams
        self._pace = Pace(bytes_per_s)
        self._busy = 0
        self._places: dict[Digest, dict[Digest, Place]] = {}
        self._looking = asyncio.Lock()
        self.given = 0

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/chunks/get", self._on_get)
        return app

    async def _on_get(self, request: web.Request) -> web.StreamResponse:
        try:
            if not self._token:
                raise UnauthenticatedError("auth.no_token", "this worker was given no token file")
            check_internal(request, self._token)
            if self._busy >= self._streams:
                why = f"this worker gives out {self._streams} answers at once; ask imagecache"
                raise UnavailableError("platform.unavailable", why, retry_after_s=1.0)
            self._busy += 1
            try:
                async with asyncio.timeout(GIVE_S):
                    return await self._give(request, decode_digests(await request.read()))
            finally:
                self._busy -= 1
        except PlatformError as error:
            return error_response(error)
        except TimeoutError:
            log.info("peers.slow", asked_by=request.remote)
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)

    async def _give(self, request: web.Request, digests: Sequence[Digest]) -> web.StreamResponse:
        await self._look()
        answer = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await answer.prepare(request)
        loop = asyncio.get_running_loop()
        for at in range(0, len(digests), GROUP_OBJECTS):
            wanted, opened = self._open(digests[at : at + GROUP_OBJECTS])
            # To its end, also when nobody waits any more: it closes what was opened for it.
            work = loop.run_in_executor(None, _frames, wanted, opened)
            frames = await asyncio.shield(work)
            data = b"".join(map(batch_bytes, frames))
            await asyncio.sleep(self._pace.wait_s(len(data), self._clock.now()))
            await answer.write(data)
            self.given += sum(frame.raw_size for frame in frames if frame.stored is not None)
        await answer.write_eof()
        return answer

    def _open(
        self, digests: Sequence[Digest]
    ) -> tuple[list[tuple[Digest, Place | None]], list[int]]:
        """Return where objects are, in files that stay open whatever becomes of their trees, and these files."""
        own: dict[int, int] = {}
        found: dict[Digest, Place] = {}
        for tree, whole in self._whole().items():
            for digest in digests:
                place = self._places.get(tree, {}).get(digest)
                if place is not None and digest not in found:
                    file = whole.files[place.file]
                    if file not in own:
                        own[file] = os.dup(file)
                    found[digest] = place._replace(file=own[file])
        return [(digest, found.get(digest)) for digest in digests], list(own.values())

    async def _look(self) -> None:
        """Know where the objects of the trees are that are all here now."""
        async with self._looking:
            now = self._whole()
            for gone in self._places.keys() - now.keys():
                del self._places[gone]
            for tree, whole in now.items():
                if tree not in self._places:
                    try:
                        self._places[tree] = await asyncio.to_thread(_places, tree, whole.manifest)
                    except (PlatformError, OSError) as error:  # it left meanwhile
                        log.info("peers.not_given", tree=tree, error=str(error))


def _places(digest: Digest, manifest: Path) -> dict[Digest, Place]:
    """Return where a tree's objects are; in `file`, which of its devices."""
    tree = decode_tree(check_blob(digest, manifest.read_bytes()))
    return {place.digest: place for place in places_of(tree, (0, 1))}


def _frames(wanted: Sequence[tuple[Digest, Place | None]], opened: list[int]) -> list[ChunkFrame]:
    """Read, verify and close: what is not there, or not what its name says any more, is framed as missing."""
    try:
        return [_frame(digest, place) for digest, place in wanted]
    finally:
        for file in opened:
            os.close(file)


def _frame(digest: Digest, place: Place | None) -> ChunkFrame:
    data = read_verified(place) if place is not None else None
    if data is None:
        return ChunkFrame(digest, 0, None)
    return ChunkFrame(digest, len(data), zstandard.ZstdCompressor(level=_LEVEL).compress(data))
