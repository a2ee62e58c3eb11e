"""Trees extracted whole: the way that works everywhere (`Mounts` of ports.py).

    trees/<digest>/layer/    the tree's root

A tree stays until somebody removes the directory, so releasing does nothing. Nobody but the worker's user
may look into `trees/`: set-uid programs of strangers lie there.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog
from glowplug_contracts.errors import NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest, check_digest
from glowplug_contracts.tree_rules import decode_tree

from glowplug_worker.images.arrivals import Arrivals
from glowplug_worker.images.client import StoreClient
from glowplug_worker.images.extract import TreeExtractor
from glowplug_worker.images.fetch import LAYER, fetch_chunks
from glowplug_worker.ports import HeldTree

log = structlog.get_logger(__name__)

_PRIVATE = 0o700


class Extraction:
    """See the module."""

    method = "extraction"

    def __init__(self, room: Path, client: StoreClient, tasks: asyncio.TaskGroup) -> None:
        self._room = room
        self._client = client
        self._arrivals = Arrivals((room,), tasks, mode=_PRIVATE)
        self._keeps_owners = os.geteuid() == 0

    @property
    def reason(self) -> str:
        """Return why, and what it does not keep."""
        return (
            "files are written out whole before a container starts, with their owners"
            if self._keeps_owners
            else "files are written out whole before a container starts; they belong to the worker's user, "
            "since only root can give files away"
        )

    def load(self) -> None:
        """At start: see what is here, and let nobody else look."""
        self._room.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        self._room.chmod(_PRIVATE)
        self._arrivals.load()

    async def hold(self, tree: Digest, holder: str) -> HeldTree:  # noqa: ARG002 - nothing is removed
        """Return the tree's root, extracted first where it is not here."""
        directory = self._room / check_digest(tree)

        async def fill(new: Path) -> None:
            await self._extract(tree, new / LAYER)

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
        """Nothing is held."""

    async def _extract(self, digest: Digest, root: Path) -> None:
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
