"""Leases: one owner at a time, and a generation that makes an older owner lose.

A lease is a key that expires (`LEASES`, ttl 2 s) and is renewed each 0.5 s by compare-and-set. Its generation
comes from a second key that never expires, so it grows over every change of hands, whatever was lost.
A holder that could not renew for LEASE_TTL_S − LEASE_RENEW_S stops believing before the broker stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog
from glowplug_contracts.errors import ConflictError, PlatformError
from glowplug_contracts.messages.worker import LeaseHeld
from glowplug_contracts.streams import GENERATIONS, LEASE_RENEW_S, LEASE_TTL_S, LEASES

from glowplug_runtime.bus import Bus
from glowplug_runtime.clock import Clock

log = structlog.get_logger()

CONTEND_S = 0.25


class Lease:
    """A right being held (or contended for) under one key."""

    def __init__(self, bus: Bus, clock: Clock, key: str, holder: str) -> None:
        self._leases = bus.bucket(LEASES)
        self._generations = bus.bucket(GENERATIONS)
        self._clock = clock
        self.key = key
        self.holder = holder
        self.generation = 0
        self._revision = 0
        self._renewed_at = 0.0

    @property
    def held(self) -> bool:
        """Return whether we may still believe that we hold it."""
        return (
            self._revision > 0
            and self._clock.now() - self._renewed_at < LEASE_TTL_S - LEASE_RENEW_S
        )

    async def try_acquire(self) -> bool:
        """Take it if it is free, or if a process of our own name held it before us."""
        found = await self._leases.get(self.key)
        if found is not None and found.value is not None and found.value.holder != self.holder:
            return False
        started = self._clock.now()
        generation = await self._next_generation()
        value = LeaseHeld(holder=self.holder, generation=generation)
        try:
            if found is None:
                self._revision = await self._leases.create(self.key, value)
            else:
                self._revision = await self._leases.update(self.key, value, found.revision)
        except ConflictError:
            return False
        self.generation, self._renewed_at = generation, started
        return True

    async def renew(self) -> bool:
        """Prolong it; False means that it is lost."""
        started = self._clock.now()
        value = LeaseHeld(holder=self.holder, generation=self.generation)
        try:
            self._revision = await self._leases.update(self.key, value, self._revision)
        except ConflictError:
            self._revision = 0
            return False
        self._renewed_at = started
        return True

    async def release(self) -> None:
        """Give it back, so that a waiting replica has it at once."""
        if self._revision:
            with contextlib.suppress(PlatformError):
                await self._leases.delete(self.key, self._revision)
        self._revision = 0

    async def _next_generation(self) -> int:
        while True:
            found = await self._generations.get(self.key)
            generation = found.value.generation + 1 if found and found.value else 1
            value = LeaseHeld(holder=self.holder, generation=generation)
            try:
                if found is None:
                    await self._generations.create(self.key, value)
                else:
                    await self._generations.update(self.key, value, found.revision)
            except ConflictError:
                continue
            return generation


async def hold_lease(
    lease: Lease,
    on_held: Callable[[Lease], AbstractAsyncContextManager[None]],
    stopping: asyncio.Event,
) -> None:
    """Contend for a lease until told to stop; while it is held, keep `on_held` entered.

    The context is left (its `__aexit__` runs) when the lease is lost or `stopping` is set; then the
    lease is released. An exception inside the context releases the lease and passes.
    """
    while not stopping.is_set():
        with contextlib.suppress(PlatformError):
            if await lease.try_acquire():
                log.info("lease.held", key=lease.key, generation=lease.generation)
                try:
                    async with on_held(lease):
                        await _keep_fresh(lease, stopping)
                finally:
                    await lease.release()
                    log.info("lease.released", key=lease.key, generation=lease.generation)
                continue
        await _sleep(CONTEND_S, stopping)


async def _keep_fresh(lease: Lease, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        await _sleep(LEASE_RENEW_S, stopping)
        if stopping.is_set():
            return
        try:
            async with asyncio.timeout(LEASE_TTL_S / 2):
                if not await lease.renew():
                    log.warning("lease.lost", key=lease.key, generation=lease.generation)
                    return
        except (TimeoutError, PlatformError) as error:
            log.warning("lease.not_renewed", key=lease.key, error=str(error))
        if not lease.held:
            return


async def _sleep(seconds: float, stopping: asyncio.Event) -> None:
    # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
