"""Where async functions run: one event loop in the main thread, up to `concurrency` tasks at once."""

from __future__ import annotations

import asyncio
import time

from glowplug.runner.invocation import CancelledError, Invocation
from glowplug.runner.lanes import CURRENT, GENERATOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Any

    from glowplug.runner.call import Caller


class AsyncLane:
    """Tasks on the loop that `on_start` may already have used."""

    def __init__(
        self,
        caller: Caller,
        ended: Callable[[Invocation], None],
        concurrency: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._caller = caller
        self._ended = ended
        self._loop = loop
        self._places = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def put(self, invocation: Invocation) -> None:
        """Take an input (from the stand-in, who reads all the time here)."""
        self._loop.call_soon_threadsafe(self._start, invocation)

    def stop(self) -> None:
        """End once everything taken has ended (from the stand-in, who reads all the time here)."""
        self._loop.call_soon_threadsafe(self._stop)

    def run(self) -> None:
        """Run the loop until stopped; it is closed at the process's end (`exits`)."""
        self._loop.run_forever()

    def _start(self, invocation: Invocation) -> None:
        task = self._loop.create_task(self._run(invocation))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        invocation.interrupt = lambda: self._loop.call_soon_threadsafe(
            self._cancel, task, invocation
        )

    def _cancel(self, task: asyncio.Task[None], invocation: Invocation) -> None:
        if invocation.stoppable:
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._stopping and not self._tasks:
            self._loop.stop()

    def _stop(self) -> None:
        self._stopping = True
        if not self._tasks:
            self._loop.stop()

    async def _run(self, invocation: Invocation) -> None:
        async with self._places:
            CURRENT.set(invocation)
            await run_input_async(self._caller, invocation)
        self._ended(invocation)


async def run_input_async(caller: Caller, invocation: Invocation) -> None:
    """Run one input on the loop and report how it ended, whatever happens."""
    started = time.perf_counter()
    items = 0
    try:
        invocation.begin()
        value, items = await finish_async(caller, invocation, caller.call(invocation))
        invocation.stoppable = False
    except BaseException as error:  # noqa: BLE001 - a cancelled task is reported, too
        invocation.stoppable = False
        if invocation.cancelled and isinstance(error, asyncio.CancelledError):
            error = CancelledError()
        caller.fail(invocation, error, started)
    else:
        caller.succeed(invocation, value, started, items)


async def finish_async(caller: Caller, invocation: Invocation, value: Any) -> tuple[object, int]:
    """Return the value behind a coroutine or generator, and how many items were sent."""
    if hasattr(value, "__await__"):
        value = await value
    if hasattr(value, "__aiter__"):
        items: AsyncIterator[object] = value
    elif type(value) is GENERATOR:
        items = _as_async(value)
    else:
        return value, 0
    if not invocation.stream:
        kept = [item async for item in items]
        return kept, len(kept)
    number = 0
    async for item in items:
        await _wait_for_credit(invocation, number)
        caller.send_item(invocation, number, item)
        number += 1
    return None, number


async def _as_async(generator: Any) -> AsyncIterator[object]:
    for item in generator:
        yield item


async def _wait_for_credit(invocation: Invocation, number: int) -> None:
    if invocation.may_send(number):
        return
    loop = asyncio.get_running_loop()
    grown = asyncio.Event()
    invocation.on_credit = lambda: loop.call_soon_threadsafe(grown.set)
    while not invocation.may_send(number):
        grown.clear()
        if not invocation.may_send(number):
            await grown.wait()
    invocation.on_credit = None
