"""Open what brings images of registries to this worker, as its settings and this machine have it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from glowplug_runtime.clock import Clock

from glowplug_worker.images.client import StoreClient
from glowplug_worker.images.extraction import Extraction
from glowplug_worker.images.mounts.hot import ImagecacheHotLists
from glowplug_worker.images.mounts.lazy import KEEP_S, Terms, open_lazy_mounts
from glowplug_worker.images.mounts.pair import Spawn
from glowplug_worker.images.mounts.probe import MountsWanted, choose_wanted
from glowplug_worker.images.mounts.sources import ImagecacheSource
from glowplug_worker.janitor import LAZY
from glowplug_worker.ports import Mounts

_OPEN = 0o755


class Mounting(msgspec.Struct, frozen=True, kw_only=True):
    """How trees are to come here.

    Attributes:
        spawn: runs a coroutine beside everything else; what it raises is logged.
        urls: where imagecaches answer now.
        token: what they are shown.
        bytes_max: `room.bound_of`.
    """

    wanted: MountsWanted
    clock: Clock
    spawn: Spawn
    urls: Callable[[], Sequence[str]]
    token: str
    keep_s: float = KEEP_S
    bytes_max: int = 0


async def open_for_all(
    data_dir: Path, client: StoreClient, tasks: asyncio.TaskGroup, mounting: Mounting
) -> Mounts:
    """Return what extracts trees where every user of this machine may look."""
    extraction = Extraction(
        data_dir / "models",
        client,
        tasks,
        mounting.clock,
        why="containers that see the host's own files open them as users of their own",
        bytes_max=mounting.bytes_max,
        mode=_OPEN,
    )
    await asyncio.to_thread(extraction.load)
    return extraction


@contextlib.asynccontextmanager
async def open_mounts(
    data_dir: Path, client: StoreClient, tasks: asyncio.TaskGroup, mounting: Mounting
) -> AsyncIterator[Mounts]:
    """Open the way that is wanted, or the best one that works. Raises: SettingsError."""
    directory = data_dir / LAZY
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    choice = await asyncio.to_thread(choose_wanted, mounting.wanted, directory)
    if choice.method == "extraction":
        extraction = Extraction(
            data_dir / "trees",
            client,
            tasks,
            mounting.clock,
            why=choice.reason,
            bytes_max=mounting.bytes_max,
        )
        await asyncio.to_thread(extraction.load)
        yield extraction
        return

    def words() -> Mapping[str, object]:
        return {"store": "imagecache", "urls": list(mounting.urls()), "token": mounting.token}

    async with open_lazy_mounts(
        directory,
        ImagecacheSource(client),
        words,
        mounting.clock,
        mounting.spawn,
        choice,
        Terms(
            hot_lists=ImagecacheHotLists(client),
            keep_s=mounting.keep_s,
            bytes_max=mounting.bytes_max,
        ),
    ) as mounts:
        yield mounts
