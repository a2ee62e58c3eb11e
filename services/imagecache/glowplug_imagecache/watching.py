"""Scrub the store: feeds the machine of `scrub.py` and performs what it decides.

Of replicas that share a directory the one that holds the lock scrubs, as long as it lives; another one goes on
where it was. A corrupt object can't be made whole from here: whoever needs it is named, and builds it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import assert_never

import structlog
from glowplug_contracts.ids import Digest
from glowplug_runtime.service import Shell

from glowplug_imagecache.custody import eyes_of, sole_of
from glowplug_imagecache.scrub import (
    Assess,
    Assessed,
    Check,
    Decision,
    Event,
    Failed,
    Progress,
    Save,
    Scrub,
    Tell,
    Tick,
)
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

LOCK = "scrub.lock"


class Watcher:
    """See the module. Call `tick` again and again, and `close` at last."""

    def __init__(self, shell: Shell[ImagecacheSettings], store: Store) -> None:
        self._shell = shell
        self._eyes = eyes_of(store)
        self._machine: Scrub | None = None
        self._sole = sole_of(shell, store, LOCK)

    async def tick(self) -> None:
        """Check what may be checked now, if no other replica does."""
        if self._machine is None:
            self._machine = await self._begin()
        machine = self._machine
        if machine is None:
            return
        decisions = machine.step(Tick(), self._shell.clock.unix())
        try:
            while decisions:
                event = await self._perform(decisions.pop(0))
                if event is not None:
                    decisions += machine.step(event, self._shell.clock.unix())
        except BaseException:
            machine.step(Failed(), self._shell.clock.unix())
            raise

    async def progress(self) -> Progress:
        """Return how far the pass is, whichever replica does it."""
        return await asyncio.to_thread(self._eyes.load)

    async def close(self) -> None:
        """Let another replica scrub."""
        await self._sole.close()
        self._machine = None

    async def _begin(self) -> Scrub | None:
        settings = self._shell.settings
        if settings.scrub_bytes_per_s <= 0:
            return None
        if not await self._sole.take():
            return None
        progress = await asyncio.to_thread(self._eyes.load)
        return Scrub(
            progress, bytes_per_s=settings.scrub_bytes_per_s, period_s=settings.scrub_every_s
        )

    async def _perform(self, decision: Decision) -> Event | None:
        match decision:
            case Check():
                return await asyncio.to_thread(self._eyes.check, decision)
            case Assess():
                assert self._machine is not None  # noqa: S101 - it decided this
                corrupt = self._machine.progress.corrupt
                return Assessed(await asyncio.to_thread(self._eyes.assess, corrupt))
            case Save():
                await asyncio.to_thread(self._eyes.save, decision.progress)
                return None
            case Tell():
                self._tell(decision.progress)
                return None
            case _:
                assert_never(decision)

    def _tell(self, found: Progress) -> None:
        for one in found.hurt:
            log.error("image.hurt", image_digest=one.digest, missing=one.missing)
        log.info("scrub.ended", files=found.files, bytes=found.bytes, corrupt=found.corrupt_count)
        self._shell.ready_note(scrub=_note(found))


def shown(found: Progress, own: Container[Digest]) -> dict[str, object]:
    """Return what a workspace may see of a pass: `own` are its images."""
    return {
        "running": found.began_at > found.ended_at,
        "began_at": found.began_at,
        "ended_at": found.ended_at,
        "files": found.files,
        "bytes": found.bytes,
        "corrupt_count": found.corrupt_count,
        "hurt_count": found.hurt_count,
        "hurt": [one for one in found.hurt if one.digest in own],
    }


def _note(found: Progress) -> str:
    said = f"{found.files} files checked, {found.corrupt_count} corrupt"
    if found.hurt_count:
        said += f"; {found.hurt_count} images lack something: deploy again what uses them"
    return said
