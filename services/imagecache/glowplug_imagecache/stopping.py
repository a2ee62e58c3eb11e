"""Work in a thread that a cancelled task does not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from glowplug_contracts.errors import PlatformError, UnavailableError

T = TypeVar("T")


async def in_thread(work: Callable[[Callable[[], None]], T], what: str) -> T:
    """Return what `work` does in a thread; it calls what it is given now and then, which ends it after a cancel.

    Cancelled, this waits for that end: nobody meets the thread at what comes next.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise UnavailableError("platform.unavailable", f"{what} was stopped")

    working = asyncio.get_running_loop().run_in_executor(None, work, check)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(PlatformError):
            await working
        raise
