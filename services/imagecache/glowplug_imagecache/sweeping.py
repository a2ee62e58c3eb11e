"""Remove expired leases and what crashes left; in a shared bucket one replica at a time."""

from __future__ import annotations

import asyncio

from glowplug_runtime.service import Shell

from glowplug_imagecache.custody import sole_of
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.store import Store

LOCK = "sweep.lock"


class Sweeper:
    """Call `tick` again and again."""

    def __init__(self, shell: Shell[ImagecacheSettings], store: Store) -> None:
        self._shell = shell
        self._store = store
        self._sole = sole_of(shell, store, LOCK)

    async def tick(self) -> None:
        """Sweep once."""
        now = self._shell.clock.unix()
        await asyncio.to_thread(self._store.sweep, now)
        if isinstance(self._store, SharedStore) and await self._sole.take():
            try:
                await asyncio.to_thread(self._store.sweep_leases, now)
            finally:
                await self._sole.close()
