"""Waiting for sessions to start, in this replica: who waits for which, and why placement parks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from glowplug_contracts.errors import OverloadedError, UnavailableError
from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.container import PlacementDecided

PARKED_KEPT = 2000


class Starting:
    """Creations that wait. Bounded: beyond `waiting_max` new ones are refused."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._parked: OrderedDict[ContainerId, Mapping[str, str]] = OrderedDict()
        self._closed = False

    @contextlib.contextmanager
    def expect(self, key: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the session changes. Raises: OverloadedError."""
        if sum(map(len, self._waiting.values())) >= self._waiting_max:
            raise OverloadedError(
                "sandbox.overloaded",
                f"{self._waiting_max} sandboxes are starting here",
                retry_after_s=1,
            )
        changed = asyncio.Event()
        self._waiting.setdefault(key, []).append(changed)
        try:
            yield changed
        finally:
            self._waiting[key].remove(changed)
            if not self._waiting[key]:
                del self._waiting[key]

    def note_change(self, key: str) -> None:
        """Wake who waits for this session."""
        for changed in self._waiting.get(key, ()):
            changed.set()

    def note_placement(self, decided: PlacementDecided) -> None:
        """Remember why a container is parked, until it is placed."""
        self._parked.pop(decided.container_id, None)
        if decided.decision == "parked":
            self._parked[decided.container_id] = decided.reasons
            if len(self._parked) > PARKED_KEPT:
                self._parked.popitem(last=False)

    def parked(self, container_id: ContainerId) -> Mapping[str, str]:
        """Return worker → why it does not take the container; empty where nothing is known."""
        return self._parked.get(container_id, {})

    def check_open(self) -> None:
        """Raise UnavailableError once this replica stops: another one goes on waiting."""
        if self._closed:
            raise UnavailableError(
                "platform.unavailable", "this replica stops; ask again", retry_after_s=0.1
            )

    def close(self) -> None:
        """Let everybody who waits find out that this replica stops."""
        self._closed = True
        for waiting in self._waiting.values():
            for changed in waiting:
                changed.set()
