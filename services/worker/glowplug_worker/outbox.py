"""Outcomes that were told to their callers and are not stored yet: bounded, and waited for at the end.

They are stored together, some milliseconds later: what follows an answer must not hold up the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

# While the broker is away, so much waits for it; beyond that an outcome is stored before it is told.
KEPT_MAX: Final = 4_096
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
STORE_AFTER_S: Final = 0.02


class Outbox:
    """See the module. `spawn` runs a coroutine in the background."""

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    ) -> None:
        self._spawn = spawn
        self._waiting: list[tuple[Callable[[], Coroutine[Any, Any, None]], int]] = []
        self._storing: dict[asyncio.Task[None], int] = {}
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Return whether one more may be told first."""
        kept = len(self._waiting) + len(self._storing)
        return kept < KEPT_MAX and self._bytes < KEPT_BYTES_MAX

    def put(self, store: Callable[[], Coroutine[Any, Any, None]], size: int) -> None:
        """Have `store` called soon; until it returns, `size` bytes count as kept."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(STORE_AFTER_S, self._store)
        self._waiting.append((store, size))
        self._bytes += size

    async def emptied(self) -> None:
        """Return when everything is stored, or given up."""
        self._store()
        while self._storing:
            await asyncio.wait(list(self._storing))

    def _store(self) -> None:
        waiting, self._waiting = self._waiting, []
        for store, size in waiting:
            task = self._spawn(store(), "store outcome")
            self._storing[task] = size
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._bytes -= self._storing.pop(task)
