"""Which of the workers that have a tree to ask, and when to ask again who they are. A pure machine.

One that did not answer is passed over for a while; one that lied is not asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from glowplug_contracts.rendezvous import ranked

ASK_AGAIN_S: Final = 5.0
PASSED_OVER_S: Final = 10.0


class PeerChoice:
    """See the module. `now`: monotonic seconds."""

    def __init__(self) -> None:
        self._urls: tuple[str, ...] = ()
        self._ask_at = float("-inf")
        self._failed: dict[str, float] = {}
        self._liars: set[str] = set()

    def due(self, now: float) -> bool:
        """Return whether somebody should ask who they are; says so to one caller only."""
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_AGAIN_S
        return True

    def told(self, urls: Sequence[str]) -> None:
        """These have the tree now."""
        self._urls = tuple(urls)

    def choose(self, name: str, now: float) -> str | None:
        """Return whom to ask for something; None = nobody."""
        self._failed = {url: until for url, until in self._failed.items() if until > now}
        left = [u for u in self._urls if u not in self._failed and u not in self._liars]
        order = ranked(name, left)
        return order[0] if order else None

    def failed(self, url: str, now: float) -> None:
        """It did not answer, was busy, or lacked what was asked for."""
        self._failed[url] = now + PASSED_OVER_S

    def lied(self, url: str) -> None:
        """It sent something that is not what its name says."""
        self._liars.add(url)
