"""What the gateway's parts need of the process they live in, in their words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from glowplug_runtime.bus import Bus


class Time(Protocol):
    """Clocks and ids."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def unix(self) -> float:
        """Return Unix seconds."""

    def id(self, kind: str) -> str:
        """Return a new id of a kind."""


class Platform(Protocol):
    """The process: who it is, how it reaches the others, and where its background work lives."""

    @property
    def bus(self) -> Bus:
        """The broker."""

    @property
    def clock(self) -> Time:
        """The time."""

    @property
    def instance(self) -> str:
        """This gateway's name: replies come to it."""

    @property
    def shards(self) -> int:
        """How many shards the platform has."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in the background; what it raises is logged."""

    def every(self, period_s: float, loop: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `loop` again and again until the service stops."""


class ServiceUrls(Protocol):
    """Where other services' HTTP answers."""

    def urls(self, service: str) -> list[str]:
        """Return the URLs of all ready instances."""

    async def wait_for(self, service: str, timeout_s: float) -> str:
        """Return a ready instance's URL. Raises: UnavailableError after `timeout_s`."""
