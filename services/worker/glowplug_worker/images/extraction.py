"""Trees extracted whole: the way that works everywhere (`Mounts` of ports.py).

    trees/<digest>/layer/    the tree's root; `bytes` beside it says what it takes, the directory's time since when
                             nobody has it

A tree stays until its room is wanted and nobody holds it. Nobody but the worker's user may look into `trees/`:
set-uid programs of strangers lie there. `models/` has trees without such, for containers that see the host's own files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from glowplug_contracts.errors import NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest, check_digest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import BLOCK_BYTES
from glowplug_runtime.clock import Clock

from glowplug_worker.images.arrivals import Arrivals
from glowplug_worker.images.client import StoreClient
from glowplug_worker.images.extract import TreeExtractor
from glowplug_worker.images.fetch import LAYER, fetch_chunks
from glowplug_worker.images.room import Stay, bound_of, leaving
from glowplug_worker.ports import HeldTree

log = structlog.get_logger(__name__)

_PRIVATE: Final = 0o700
_BYTES: Final = "bytes"


class Extraction:
    """See the module."""

    method = "extraction"

    def __init__(
        self,
        room: Path,
        client: StoreClient,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        *,
        why: str = "",
        bytes_max: int = 0,
        mode: int = _PRIVATE,
    ) -> None:
        """Extract below `room`; `why` says why not otherwise, `bytes_max` is for `room.bound_of`."""
        self._clock, self._why, self._bytes_max = clock, why, bytes_max
        self._holders: dict[Digest, set[str]] = {}
        self._room = room
        self._mode = mode
        self._client = client
        self._arrivals = Arrivals((room,), tasks, mode=mode)
        self._keeps_owners = os.geteuid() == 0

    @property
    def reason(self) -> str:
        """Return why, and what it does not keep."""
        words = (
            "files are written out whole before a container starts, with their owners"
            if self._keeps_owners
            else "files are written out whole before a container starts; they belong to the worker's user, "
            "since only root can give files away"
        )
        return f"{words}: {self._why}" if self._why else words

    def load(self) -> None:
        """At start: see what is here, and let nobody look who may not."""
        self._room.mkdir(parents=True, exist_ok=True, mode=self._mode)
        self._room.chmod(self._mode)
        self._arrivals.load()

    async def hold(self, tree: Digest, holder: str) -> HeldTree:
        """Return the tree's root, extracted first where it is not here."""
        directory = self._room / check_digest(tree)
        new = holder not in self._holders.setdefault(tree, set())
        self._holders[tree].add(holder)
        try:
            return await self._bring(tree, directory)
        except BaseException:
            if new:
                await self.release(tree, holder)
            raise

    async def _bring(self, tree: Digest, directory: Path) -> HeldTree:

        async def fill(new: Path) -> None:
            size = await self._extract(tree, new / LAYER)
            (new / _BYTES).write_text(f"{size}", "ascii")

        try:
            await self._arrivals.ensure(directory, fill)
        except OSError as err:
            raise UnavailableError(
                "platform.unavailable",
                f"the image can't be extracted on this worker: {err}",
                retry_after_s=5.0,
            ) from err
        return HeldTree(root=directory / LAYER, method=self.method, reason=self.reason)

    async def release(self, tree: Digest, holder: str) -> None:
        """The holder has ended; see `Mounts`."""
        holders = self._holders.get(tree, set())
        holders.discard(holder)
        if not holders and self._holders.pop(tree, None) is not None:
            now = self._clock.unix()
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._room / tree, (now, now))

    async def started(self, tree: Digest, holder: str) -> None:
        """All of it is here."""

    def listen(self, lost: Callable[[Sequence[str]], None]) -> None:
        """None is ever lost."""

    async def tend(self) -> None:
        """Remove what nobody holds, unused for longest first, where the disk is to be kept to its bound."""
        stays, bytes_max = await asyncio.to_thread(self._measure)
        for name in leaving(stays, bytes_max):
            if Digest(name) not in self._holders:
                await self._arrivals.remove(self._room / name)
                log.info("tree.left", tree=name)

    def _measure(self) -> tuple[list[Stay], int]:
        stays = []
        for path in self._arrivals.here(self._room):
            with contextlib.suppress(OSError, ValueError):
                stays.append(
                    Stay(
                        name=path.name,
                        size=int((path / _BYTES).read_text("ascii")),
                        used_at=path.stat().st_mtime,
                        held=path.name in self._holders,
                    )
                )
        disk = shutil.disk_usage(self._room)
        taken = sum(each.size for each in stays)
        return stays, bound_of(self._bytes_max, taken, disk.free, disk.total)

    async def _extract(self, digest: Digest, root: Path) -> int:
        """Return about how many bytes it takes on the disk."""
        try:
            data = await self._client.get(digest)
        except NotFoundError as err:
            raise NotFoundError(
                "image.not_found", f"imagecache has no tree {digest} any more; deploy again"
            ) from err
        tree = await asyncio.to_thread(decode_tree, data)
        extractor = await asyncio.to_thread(TreeExtractor, root, tree)
        try:
            await fetch_chunks(self._client, extractor.objects, extractor.write)
            lost = await asyncio.to_thread(extractor.finish)
        finally:
            extractor.close()
        log.info("tree.extracted", tree=digest, entries=len(tree.entries), not_kept=lost)
        return sum(extractor.objects.values()) + BLOCK_BYTES * len(tree.entries)
