"""Be a member of the cluster that the replicas are: know the others by their beats, and answer them.

A member's name is its instance's, so give replicas names that stay. A door of its own serves its share, since members
must reach each other before the store is there for anybody else; where it is goes with the beats, as a note.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from glowplug_contracts.errors import PlatformError
from glowplug_runtime.http import check_internal, error_response, open_http
from glowplug_runtime.service import Shell
from glowplug_runtime.settings import SettingsError

from glowplug_imagecache.cluster import Cluster
from glowplug_imagecache.object_doors import ObjectDoors
from glowplug_imagecache.raw_shelf import RawShelf
from glowplug_imagecache.settings import ImagecacheSettings

log = structlog.get_logger(__name__)

SERVICE: Final = "imagecache"
NOTE: Final = "objects"
MEET_S: Final = 0.5
# Who starts waits so long for the others: whoever asks it meanwhile would be told that things are missing.
JOIN_S: Final = 5.0


@contextlib.asynccontextmanager
async def open_cluster(shell: Shell[ImagecacheSettings], root: Path) -> AsyncIterator[Cluster]:
    """Serve this replica's share, and yield the cluster when enough of the others were heard, or JOIN_S passed."""
    settings = shell.settings
    if not shell.internal_token():
        raise SettingsError("GLOWPLUG_IMAGECACHE_STORE=replicas needs GLOWPLUG_INTERNAL_TOKEN_FILE")
    if not settings.instance:  # one that is made up at each start would move every copy
        raise SettingsError(
            "GLOWPLUG_IMAGECACHE_STORE=replicas needs a GLOWPLUG_INSTANCE that stays"
        )
    shelf = await asyncio.to_thread(RawShelf, root)
    doors = ObjectDoors(shelf, settings.blob_bytes_max)
    cluster = Cluster(
        shell.instance,
        shelf,
        shell.internal_token(),
        copies=settings.store_copies,
        members=settings.store_members,
        scratch=root / "objects-tmp",
    )

    async def meet() -> None:
        beats = shell.peers.services()
        cluster.meet(
            {
                beat.instance: beat.notes[NOTE]
                for beat in beats
                if beat.service == SERVICE and NOTE in beat.notes
            }
        )

    app = web.Application(middlewares=[guard(shell.internal_token())])
    app.add_routes(doors.routes())
    try:
        async with open_http(app, settings.host, settings.store_port) as port:
            shell.ready_note(**{NOTE: f"http://{settings.host}:{port}"})
            shell.beat_now()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(JOIN_S):
                    while cluster.missing_members:
                        await meet()
                        await asyncio.sleep(MEET_S / 5)
            if cluster.missing_members:
                log.warning("members.missing", count=cluster.missing_members)
            shell.every(MEET_S, meet, "meet the other replicas")
            yield cluster
    finally:
        doors.close()
        await asyncio.to_thread(cluster.close)


def guard(token: str) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return what lets only members in."""

    @web.middleware
    async def guarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            check_internal(request, token)
            return await handler(request)
        except PlatformError as error:
            return error_response(error)

    return guarded
