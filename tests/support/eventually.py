"""Waiting for something to become true, with a bound that only guards against a hang."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.01


async def eventually(
    look: Callable[[], Any | Awaitable[Any]], within_s: float = 30.0, what: str = ""
) -> Any:
    """Return the first truthy value of `look()`; it may be a coroutine function."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or look} did not become true within {within_s} s")
        await asyncio.sleep(POLL_S)


def eventually_sync(look: Callable[[], Any], within_s: float = 30.0, what: str = "") -> Any:
    """Like `eventually`, for tests without a loop."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or look} did not become true within {within_s} s")
        time.sleep(POLL_S)
    return seen
