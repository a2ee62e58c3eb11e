"""Who waits for a build, and what they have been told: late comers hear it all from the start.

Everybody hears everything in order, by the numbers. What is kept is bounded by what a build may say
(`build.OUTPUT_MAX`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from glowplug_contracts.messages.image import BuildProgress

Sender = Callable[[str, BuildProgress], Awaitable[None]]

# A gateway that hears nothing for a while takes us for dead and asks again.
QUIET_S = 2.0
WAITING = "waiting"
BYTES = "bytes"
# Who comes late hears the next one soon.
_PASSING = frozenset({WAITING, BYTES})


class Askers:
    """The audience of one build."""

    def __init__(self, build_id: str, send: Sender) -> None:
        self.build_id = build_id
        self._send = send
        self._reply_to: list[str] = []
        self._told: list[BuildProgress] = []
        self._number = 0
        self._said_at = 0.0
        # A late comer must not hear what is new before what was said.
        self._order = asyncio.Lock()

    @property
    def done(self) -> bool:
        """Return whether the build's end was told."""
        return bool(self._told) and self._told[-1].done

    @property
    def names(self) -> tuple[str, ...]:
        """Return who waits, the latest first: each is also the name of what was asked."""
        return tuple(reversed(self._reply_to))

    async def join(self, reply_to: str) -> None:
        """Add somebody (again); they hear everything that was said so far."""
        async with self._order:
            if reply_to not in self._reply_to:
                self._reply_to.append(reply_to)
            for progress in self._told:
                await self._send(reply_to, progress)

    async def tell(self, progress: BuildProgress, now: float) -> None:
        """Say something to everybody, numbered."""
        async with self._order:
            self._number += 1
            numbered = msgspec.structs.replace(
                progress, build_id=self.build_id, number=self._number
            )
            if progress.kind not in _PASSING:
                self._told.append(numbered)
            self._said_at = now
            for reply_to in self._reply_to:
                await self._send(reply_to, numbered)

    async def keep_awake(self, now: float) -> None:
        """Say that the build lives, if nothing was said for a while."""
        if now - self._said_at >= QUIET_S:
            await self.tell(BuildProgress(build_id="", number=0, kind=WAITING), now)
