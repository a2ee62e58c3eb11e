"""Which of the replicas does what only one should do at a time.

Replicas that share a directory hold a file of it, replicas that share a bucket a lease of the platform's. Either is
let go by itself when its holder dies. What one does with it may not rely on it: a lease can be lost while its holder
does not know yet, so removals are safe whoever else removes.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Protocol

from glowplug_contracts.errors import PlatformError
from glowplug_contracts.streams import LEASE_RENEW_S
from glowplug_runtime.lease import Lease
from glowplug_runtime.service import Shell

from glowplug_imagecache.locking import only_one


class Sole(Protocol):
    """The right to do something alone."""

    async def take(self) -> bool:
        """Take it; False while another one has it."""

    async def close(self) -> None:
        """Let it go."""


class SoleOfDirectory:
    """Held as a lock on a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = contextlib.ExitStack()

    async def take(self) -> bool:
        """See Sole."""
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(only_one(self._path)):
                return False
            self._held = stack.pop_all()
        return True

    async def close(self) -> None:
        """See Sole."""
        self._held.close()


class SoleOfPlatform:
    """Held as a lease, renewed until it is closed."""

    def __init__(self, shell: Shell[Any], key: str) -> None:
        self._shell = shell
        self._lease = Lease(shell.bus, shell.clock, key, shell.instance)
        self._renewing: asyncio.Task[None] | None = None

    async def take(self) -> bool:
        """See Sole."""
        if not await self._lease.try_acquire():
            return False
        self._renewing = self._shell.tasks.create_task(
            self._renew(), name=f"renew {self._lease.key}"
        )
        return True

    async def close(self) -> None:
        """See Sole. If the broker is away, it ends by itself."""
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
            with contextlib.suppress(PlatformError):
                await self._lease.release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_RENEW_S)
            with contextlib.suppress(PlatformError):
                await self._lease.renew()
