"""Who else is alive: every service's latest sign of life, and where its HTTP answers."""

from __future__ import annotations

import asyncio

from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.messages.worker import ServiceBeat, ServicesProbed
from glowplug_contracts.subjects import SERVICE_BEAT, SERVICES_PROBED

from glowplug_runtime.bus import Bus, Delivery
from glowplug_runtime.clock import Clock

ALIVE_S = 3.5  # three beats missed


class Peers:
    """Listens to SERVICE_BEAT."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._beats: dict[tuple[str, str], tuple[float, ServiceBeat]] = {}
        self._changed = asyncio.Event()

    async def open(self, asker: str) -> None:
        """Start to listen and ask everybody to answer now."""
        await self._bus.listen(SERVICE_BEAT.pattern(), self._on_beat)
        await self._bus.send(SERVICES_PROBED.at(), ServicesProbed(asker=asker))

    async def _on_beat(self, delivery: Delivery[ServiceBeat]) -> None:
        beat = delivery.message
        if beat is None:
            return
        self._beats[beat.service, beat.instance] = (self._clock.now(), beat)
        self._changed.set()

    def services(self) -> list[ServiceBeat]:
        """Return the last beat of every instance that lives, by service and instance."""
        now = self._clock.now()
        self._beats = {k: v for k, v in self._beats.items() if now - v[0] <= ALIVE_S}
        return [beat for _, (_, beat) in sorted(self._beats.items())]

    def url(self, service: str) -> str | None:
        """Return the URL of a ready instance, or None."""
        urls = self.urls(service)
        return urls[0] if urls else None

    def urls(self, service: str) -> list[str]:
        """Return the URLs of all ready instances."""
        return [b.url for b in self.services() if b.service == service and b.ready and b.url]

    async def wait_for(self, service: str, timeout_s: float) -> str:
        """Return the URL of a ready instance as soon as there is one.

        Raises: UnavailableError after `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (url := self.url(service)) is None:
                    self._changed.clear()
                    await self._changed.wait()
                return url
        except TimeoutError as err:
            raise UnavailableError(
                "platform.unavailable", f"no {service} service is ready", retry_after_s=1
            ) from err
