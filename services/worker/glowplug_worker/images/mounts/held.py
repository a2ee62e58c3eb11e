"""One tree of `lazy.py`: what is known of it. And steps of mounting one, which are not left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_runtime.groups import leaves

from glowplug_worker.images.mounts.files import Home
from glowplug_worker.runtime.settle import settle


class Tree:
    """A tree that is, or is about to be, mounted.

    Attributes:
        known: the holder has its devices; `watched`: reads of it may have to wait.
        doors: FUSE's descriptors; while they are open here, readers wait also without a holder.
        ready: it takes nothing but mounting it.
        hot: what its starts are known to read; `read`: what this one has, once nobody tells any more.
    """

    def __init__(self, digest: Digest, base: int) -> None:
        self.digest, self.base = digest, base
        self.lock = asyncio.Lock()
        self.holders: set[str] = set()
        self.home: Home | None = None
        self.files: tuple[int, int] | None = None
        self.doors: list[int] = []
        self.known = False
        self.watched = False
        self.ready = False
        self.mounted = False
        self.filled = False
        self.from_peers = 0
        self.unheld_since = 0.0
        self.unheld_unix = 0.0
        self.hot: list[Digest] = []
        self.read: list[Digest] | None = None


async def mounting(mount: Callable[[], None]) -> None:
    """Mount something in a thread, to its end. Raises: UnavailableError."""
    try:
        await whole(mount)
    except OSError as error:
        why = f"the image can't be mounted: {error}"
        raise UnavailableError("platform.unavailable", why) from error


async def whole(work: Callable[[], None]) -> None:
    """Do it in a thread, to its end, also when the caller is cancelled: what it makes is noted by itself."""
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await settle(done)
        raise


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Do both at once. If one fails, the other is cancelled and waited for, and that error is raised."""
    failed: BaseExceptionGroup[PlatformError | OSError] | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one)
            tasks.create_task(other)
    except* (PlatformError, OSError) as group:
        failed = group  # raised outside, since what is raised in here comes out in a group
    if failed is not None:
        raise leaves(failed)[0] from failed
