"""Directories that arrive on this host whole, or not at all.

    <room>/<digest>/         what arrived
    <room>/<digest>.safe     beside it: the disk has it all, a power cut can't have torn it

Those who want the same at the same time share one fetch. A thing exists when its directory has its name;
until the disk has synced it lacks its `.safe` mark, and a start of the worker removes what lacks it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import check_digest
from glowplug_runtime.trees import remove_tree

log = structlog.get_logger(__name__)

Fill = Callable[[Path], Awaitable[None]]


class Arrivals:
    """See the module.

    Args:
        rooms: directories of such directories, named by digests.
        tasks: where syncing goes on in the background.
        mode: what others may do with a thing that arrived.
    """

    def __init__(
        self, rooms: Sequence[Path], tasks: asyncio.TaskGroup, *, mode: int = 0o755
    ) -> None:
        self._rooms = rooms
        self._tasks = tasks
        self._mode = mode
        self._here: set[Path] = set()
        self._arriving: dict[Path, asyncio.Lock] = {}
        self._syncing = asyncio.Lock()

    def here(self, room: Path) -> list[Path]:
        """Return what has arrived in a room."""
        return [path for path in self._here if path.parent == room]

    def load(self) -> None:
        """At start: note what is here; remove what a crash left, or the disk may not have."""
        for room in self._rooms:
            room.mkdir(parents=True, exist_ok=True)
            for path in room.iterdir():
                if not path.is_dir():
                    continue
                if _mark(path).exists() and _is_named(path.name):
                    self._here.add(path)
                else:
                    remove_tree(path)

    async def ensure(self, directory: Path, fill: Fill) -> None:
        """Have `directory`, made by `fill`, which only one of those who ask at once runs."""
        if directory in self._here:
            return
        async with self._arriving.setdefault(directory, asyncio.Lock()):
            if directory not in self._here:
                await self._arrive(directory, fill)
        self._arriving.pop(directory, None)

    async def remove(self, directory: Path) -> None:
        """Remove what has arrived; nobody uses it, and nobody asks for it meanwhile."""
        async with self._arriving.setdefault(directory, asyncio.Lock()):
            self._here.discard(directory)
            await asyncio.to_thread(_remove, directory)
        self._arriving.pop(directory, None)

    async def _arrive(self, directory: Path, fill: Fill) -> None:
        new = Path(tempfile.mkdtemp(prefix="new-", dir=directory.parent))
        try:
            await fill(new)
            await asyncio.to_thread(self._name, new, directory)
            self._here.add(directory)
        finally:
            await asyncio.to_thread(remove_tree, new)
        self._tasks.create_task(self._make_safe(directory), name=f"sync {directory.name[:12]}")

    async def _make_safe(self, directory: Path) -> None:
        async with self._syncing:
            try:
                await asyncio.to_thread(_sync_and_mark, directory)
            except OSError as err:  # fetched again after the next start; nothing else is wrong
                log.warning("image.not_synced", directory=directory.name, error=str(err))

    def _name(self, new: Path, directory: Path) -> None:
        new.chmod(self._mode)
        new.rename(directory)


def _mark(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.safe")


def _remove(directory: Path) -> None:
    _mark(directory).unlink(missing_ok=True)
    remove_tree(directory)


def _sync_and_mark(directory: Path) -> None:
    os.sync()
    if directory.is_dir():  # it may have been removed meanwhile
        _mark(directory).touch()


def _is_named(name: str) -> bool:
    try:
        check_digest(name)
    except InvalidRequestError:
        return False
    return True
