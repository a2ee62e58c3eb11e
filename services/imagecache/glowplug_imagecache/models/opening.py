"""Opens what brings models of a hub and of volumes, as the settings say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from glowplug_runtime.service import Shell

from glowplug_imagecache.asking_gateways import Gateways
from glowplug_imagecache.folders import LayerFolder
from glowplug_imagecache.models.fetching import Fetcher
from glowplug_imagecache.models.hub import HubWeights
from glowplug_imagecache.models.volumes import VolumeWeights
from glowplug_imagecache.pulled import registries_of
from glowplug_imagecache.quota import Quota
from glowplug_imagecache.registry.guarding import open_session
from glowplug_imagecache.registry.patience import Patience
from glowplug_imagecache.settings import ImagecacheSettings


def volumes_of(settings: ImagecacheSettings, quota: Quota) -> VolumeWeights:
    """Return what makes models of volumes."""
    root = Path(settings.volumes_dir) if settings.volumes_dir else None
    return VolumeWeights(root, quota, bytes_max=settings.model_bytes_max)


@contextlib.asynccontextmanager
async def open_hub(
    shell: Shell[ImagecacheSettings], root: Path, gateways: Gateways, quota: Quota
) -> AsyncIterator[HubWeights]:
    """Yield what pulls models of the hub, with a folder below `root`. Raises: SettingsError."""
    settings = shell.settings
    patience = Patience(tries_max=settings.registry_tries)
    networks = registries_of(settings).networks
    folder = await asyncio.to_thread(LayerFolder, root)
    try:
        async with open_session(networks, patience) as session:
            hub = HubWeights(
                settings.hub_url,
                Fetcher(session, networks, shell.clock, patience),
                folder,
                gateways.model_token,
                quota,
                bytes_max=settings.model_bytes_max,
                free_bytes_min=settings.free_bytes_min,
            )

            async def sweep() -> None:
                await asyncio.to_thread(hub.sweep, shell.clock.unix())

            shell.every(settings.sweep_s, sweep, "sweep files of pulls")
            yield hub
    finally:
        folder.close()
