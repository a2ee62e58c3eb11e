"""A clock that moves when told to, and ids that count."""

from __future__ import annotations

from glowplug_contracts.ids import make_id


class FakeClock:
    """Stands in for `glowplug_runtime.clock.Clock`."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._ids = 0

    def now(self) -> float:
        return self._now

    def unix(self) -> float:
        return 1_700_000_000.0 + self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def id(self, kind: str) -> str:
        self._ids += 1
        return make_id(kind, 0, self._ids.to_bytes(10))
