"""Work in a thread that a cancelled task does not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from glowplug_contracts.errors import PlatformError, UnavailableError

T = TypeVar("T")


async def in_thread(
    work: Callable[[Callable[[], None]], T],
    what: str,
    meanwhile: Callable[[asyncio.Future[T]], Awaitable[object]] | None = None,
) -> T:
    """Return what `work` does in a thread; it calls what it is given now and then, which ends it after a cancel.

    Cancelled, this waits for that end: nobody meets the thread at what comes next. So it does when what is done
    `meanwhile`, which is given the work to watch, fails.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise UnavailableError("platform.unavailable", f"{what} was stopped")

    working = asyncio.get_running_loop().run_in_executor(None, work, check)
    try:
        if meanwhile is not None:
            await meanwhile(working)
        return await asyncio.shield(working)
    except BaseException:
        stop.set()
        with contextlib.suppress(PlatformError):
            await working
        raise
