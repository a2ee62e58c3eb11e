"""Keep the store within its bounds: feeds the machine of `eviction.py` and performs what it decides.

What was evicted is logged, image by image, and build steps that ended in it are forgotten, so that they are
done again when somebody needs them. Of replicas that share a directory one evicts at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar, assert_never

import structlog
from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.image import CachedStep, ImageRecord
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import BUILD_STEPS, IMAGES
from glowplug_runtime.bus import KeyValue
from glowplug_runtime.service import Shell

from glowplug_imagecache.custody import hands_of, sole_of
from glowplug_imagecache.evicting import LOCK
from glowplug_imagecache.eviction import (
    Decision,
    DropImages,
    DropTrees,
    Event,
    Eviction,
    Failed,
    ImagesDropped,
    Look,
    Looked,
    Report,
    Sweep,
    Tell,
    Tick,
    TreesDropped,
)
from glowplug_imagecache.needs import find_needs
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.stock import Held
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

V = TypeVar("V", CachedStep, ImageRecord)


class Keeper:
    """See the module.

    Args:
        beats: the live workers' last beats, as far as they were heard.

    Attributes:
        last: what the last round of this replica did, None before the first one.
    """

    def __init__(
        self,
        shell: Shell[ImagecacheSettings],
        store: Store,
        beats: Callable[[], Iterable[WorkerBeat]],
    ) -> None:
        settings = shell.settings
        self.last: Report | None = None
        self._shell = shell
        self._beats = beats
        self._hands = hands_of(store)
        self._held = Held(images=frozenset(), sources=frozenset())
        self._store = store
        self._sole = sole_of(shell, store, LOCK)
        self._machine = Eviction(
            bytes_max=settings.store_bytes_max,
            unused_s=settings.image_unused_s,
            grace_s=settings.evict_grace_s,
            period_s=settings.evict_s,
        )

    async def recover(self) -> None:
        """Put back what a killed eviction left, unless another replica is evicting now."""
        if await self._sole.take():
            try:
                await asyncio.to_thread(self._hands.recover)
            finally:
                await self._sole.close()

    async def tick(self) -> None:
        """Evict if it is time."""
        decisions = self._machine.step(Tick(), self._shell.clock.unix())
        if not decisions:
            return
        if not await self._sole.take():
            self._machine.step(Failed(), self._shell.clock.unix())
            return
        try:
            while decisions:
                event = await self._perform(decisions.pop(0))
                if event is not None:  # in a thread: it goes through every object there is
                    now = self._shell.clock.unix()
                    decisions += await asyncio.to_thread(self._machine.step, event, now)
        except BaseException:
            self._machine.step(Failed(), self._shell.clock.unix())
            raise
        finally:
            await self._sole.close()

    async def _perform(self, decision: Decision) -> Event | None:
        match decision:
            case Look():
                await asyncio.to_thread(self._hands.recover)
                stock = await asyncio.to_thread(self._hands.look)
                needs = await find_needs(self._shell.bus, self._beats())
                self._held = needs.held()
                return Looked(stock, self._held)
            case DropImages():
                gone = await asyncio.to_thread(self._hands.drop_images, decision)
                await self._forget_gone()
                return ImagesDropped(gone)
            case DropTrees():
                return TreesDropped(await asyncio.to_thread(self._hands.drop_trees, decision))
            case Sweep():
                return await asyncio.to_thread(self._hands.sweep, decision)
            case Tell():
                self._tell(decision.report)
                return None
            case _:
                assert_never(decision)

    async def _forget_gone(self) -> None:
        """Forget records and build steps whose image is not there, unless something needs it.

        What this round dropped, and what one that was killed dropped, or a disk lost.
        """
        await self._forget_in(self._shell.bus.bucket(BUILD_STEPS))
        await self._forget_in(self._shell.bus.bucket(IMAGES))

    async def _forget_in(self, bucket: KeyValue[V]) -> None:
        entries = [entry for entry in await bucket.entries() if entry.value is not None]
        named = {Digest(entry.value.image_digest) for entry in entries if entry.value is not None}
        gone = await asyncio.to_thread(self._gone, named - self._held.images)
        for entry in entries:
            if entry.value is not None and Digest(entry.value.image_digest) in gone:
                try:
                    await bucket.delete(entry.key, entry.revision)
                except ConflictError:  # written since, after its manifest
                    log.info("eviction.built_again", key=entry.key)

    def _gone(self, digests: frozenset[Digest] | set[Digest]) -> frozenset[Digest]:
        return frozenset(digest for digest in digests if self._store.used_at(digest) is None)

    def _tell(self, report: Report) -> None:
        self.last = report
        for one in report.images:
            log.info("image.evicted", image_digest=one.digest, why=one.why)
        for tree in report.trees:
            log.info("tree.evicted", tree=tree)
        if report.images or report.swept:
            log.info("store.swept", objects=report.swept, bytes=report.swept_bytes)
        if report.over:
            log.warning("store.over_bound", bytes=report.size, unreadable=len(report.unreadable))
        self._shell.ready_note(store=_note(report, self._shell.settings.store_bytes_max))


def shown(report: Report | None) -> dict[str, object]:
    """Return what anybody may see of the last round: the images may be other workspaces'."""
    if report is None:
        return {}
    return {
        "at": report.at,
        "size": report.size,
        "over": report.over,
        "images_evicted": len(report.images),
        "unreadable": len(report.unreadable),
        "swept": report.swept,
        "swept_bytes": report.swept_bytes,
    }


def _note(report: Report, bytes_max: int) -> str:
    said = f"{report.size} bytes"
    if report.over:
        said += f", over the bound of {bytes_max}: all of it is needed or in use"
    if report.unreadable:
        said += f"; {len(report.unreadable)} unreadable manifests keep everything from being swept"
    return said
