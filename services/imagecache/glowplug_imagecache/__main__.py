"""The imagecache service's command: the store, its HTTP door, the builds, and who keeps the store in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from glowplug_contracts.weights import HUB, UPLOAD, VOLUME
from glowplug_runtime.http import open_http
from glowplug_runtime.service import Shell, run

from glowplug_imagecache.hot import HotLists
from glowplug_imagecache.http import make_app
from glowplug_imagecache.image_doors import ImageDoors
from glowplug_imagecache.keeping import Keeper
from glowplug_imagecache.models.doors import ModelDoors
from glowplug_imagecache.models.opening import open_hub, volumes_of
from glowplug_imagecache.models.pulls import open_pulls
from glowplug_imagecache.models.sources import WeightSource
from glowplug_imagecache.models.uploaded import UploadedWeights
from glowplug_imagecache.models.uploads import Uploads
from glowplug_imagecache.opening import open_store
from glowplug_imagecache.peers import TreePeers
from glowplug_imagecache.pulled import open_sources
from glowplug_imagecache.service import SERVICE, open_builds
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.shelf import Shelf
from glowplug_imagecache.sweeping import Sweeper
from glowplug_imagecache.watching import Watcher

KEEP_TICK_S = 1.0
WORKER = "worker"


@contextlib.asynccontextmanager
async def open_service(shell: Shell[ImagecacheSettings]) -> AsyncIterator[None]:
    """Open the store and the builds, then the door; close in reverse."""
    settings = shell.settings
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(settings.data_dir or SERVICE)
        store = await stack.enter_async_context(open_store(shell, folder))
        uploads = await asyncio.to_thread(Uploads, folder / "uploads", settings.free_bytes_min)
        sources = await stack.enter_async_context(open_sources(shell, store, folder))
        builds = await stack.enter_async_context(open_builds(shell, store, sources))
        uploaded = UploadedWeights(
            shell.bus, store, uploads, builds.quota, bytes_max=settings.model_bytes_max
        )
        hub = await stack.enter_async_context(
            open_hub(shell, folder / "pulls", sources.gateways, builds.quota)
        )
        kinds: dict[str, WeightSource] = {
            UPLOAD: uploaded,
            HUB: hub,
            VOLUME: volumes_of(settings, builds.quota),
        }
        await stack.enter_async_context(open_pulls(shell, store, kinds))
        keeper = Keeper(shell, store, builds.beats)
        await keeper.recover()
        watcher = Watcher(shell, store)
        stack.push_async_callback(watcher.close)
        shelf = Shelf(shell, store, builds.beats)
        doors = ImageDoors(shelf, keeper, watcher, settings.store_bytes_max)
        hot = HotLists(store)
        peers = TreePeers(builds.beats, lambda: _workers(shell))
        models = ModelDoors(uploaded, uploads)
        routes = [*doors.routes(), *hot.routes(), *peers.routes(), *models.routes()]
        app = make_app(store, shell.clock, shell.internal_token(), routes, builds.quota)
        port = await stack.enter_async_context(open_http(app, settings.host, settings.port))
        shell.url = f"http://{settings.host}:{port}"
        shell.every(settings.sweep_s, Sweeper(shell, store).tick, "sweep expired blobs")
        shell.every(settings.sweep_s, uploads.tick(shell.clock), "sweep uploads")
        shell.every(settings.sweep_s, sources.bases.sweep, "sweep layers")
        shell.every(settings.sweep_s, hot.tick, "sweep lists of what starts read")
        shell.every(KEEP_TICK_S, keeper.tick, "evict what nothing needs")
        shell.every(KEEP_TICK_S, watcher.tick, "scrub the store")
        yield


def _workers(shell: Shell[ImagecacheSettings]) -> dict[str, str]:
    """Return where workers answer that give objects out."""
    beats = shell.peers.services()
    return {b.instance: b.url for b in beats if b.service == WORKER and b.ready and b.url}


def main() -> None:
    """Run the service."""
    run(SERVICE, ImagecacheSettings, open_service)


if __name__ == "__main__":
    main()
