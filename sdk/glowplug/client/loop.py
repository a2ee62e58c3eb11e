"""The client's own event loop, in one background thread for the whole program.

So that a plain script, a notebook and an asyncio program share one connection pool, and a blocking call
works wherever it is made.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from glowplug.remote import is_remote

R = TypeVar("R")
CANCEL_WAIT_S = 3.0
SLICE_S = 0.5


class Background:
    """A thread that runs an event loop until the program ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._keep_running, name="glowplug", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False in a forked child, where the thread did not come along."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run it in the loop and wait for the result. Ctrl-C cancels it first, then is raised."""
        done = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_signalling(work, done), self.loop)
        try:
            return _result(future) if is_remote() else future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                done.wait(CANCEL_WAIT_S)
            raise

    async def wait(self, work: Coroutine[Any, Any, R]) -> R:
        """Run it in the loop and await the result from another loop (or from this one)."""
        if asyncio.get_running_loop() is self.loop:
            return await work
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        return await asyncio.wrap_future(future)

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start it, from inside the loop; whoever starts it keeps it and sees how it ends."""
        return self.loop.create_task(work)

    def stop(self) -> None:
        """End the loop and the thread."""
        if self.alive:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(CANCEL_WAIT_S)

    def _keep_running(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._finish()

    def _finish(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def _result(future: Future[R]) -> R:
    # In slices: what the runner raises in a thread is not seen inside a lock.
    while True:
        try:
            return future.result(SLICE_S)
        except TimeoutError:
            if future.done():
                return future.result()


async def _signalling(work: Coroutine[Any, Any, R], done: threading.Event) -> R:
    try:
        return await work
    finally:
        done.set()


_background: list[Background] = []
_lock = threading.Lock()


def background() -> Background:
    """Return the program's background loop, started at the first call (and anew after a fork)."""
    if _background and _background[0].alive:
        return _background[0]
    with _lock:
        if not (_background and _background[0].alive):
            _background[:] = [Background()]
        return _background[0]


async def in_thread(function: Any, *args: Any) -> Any:
    """Run blocking work outside the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, partial(function, *args))
