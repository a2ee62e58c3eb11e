"""Waiting for what must not be left: a process that is being made belongs to whoever asked for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def settle(asked: asyncio.Future[Any]) -> None:
    """Return when it is done, however often the caller is cancelled meanwhile; it is not cancelled itself.

    For the caller's own `except asyncio.CancelledError`, which raises again after it has cleaned up: a start
    is given up once, and killed again by whoever grows impatient.
    """
    while not asked.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({asked})
