"""Mapping a function over many inputs from inside a container: one call per input, some at once.

The runner's door takes a bounded number of requests at a time, so no more than AT_ONCE calls of a map are out;
inputs are pulled lazily, and no more than WINDOW_INPUTS lie between what was pulled and what was yielded. Each call
is one `.remote`, with the same repeats and the same cancelling. Outside, `glowplug.client.mapping` makes batches.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from glowplug.client.calls import call
from glowplug.client.loop import background
from glowplug.client.outcomes import Ended, settle
from glowplug.errors import GlowplugError, QueueFullError

if TYPE_CHECKING:
    from glowplug.client.http import Http

# The door takes 64 requests of one container; the rest is for what else its code asks.
AT_ONCE = 48
WINDOW_INPUTS = 1_024
WINDOW_BYTES = 32 * 1024 * 1024
FULL_PAUSE_S = 0.5
TOO_MANY = "container.too_many_requests"

Came = tuple[int, "Ended | Exception"]


class Flight:
    """The calls of one map that are out. Everything but construction runs in the background loop."""

    def __init__(self, http: Http, deployment_id: str) -> None:
        self._http = http
        self._deployment_id = deployment_id
        self._arrived: list[Came] = []
        self._something = asyncio.Event()
        self._out: dict[int, asyncio.Task[None]] = {}

    async def send(self, inputs: list[tuple[int, bytes]]) -> None:
        """Begin calls; how they end arrives later."""
        for index, data in inputs:
            self._out[index] = background().start(self._carry(index, data))

    async def arrivals(self) -> list[Came]:
        """Return what has ended, waiting for at least one."""
        if not self._arrived:
            await self._something.wait()
        self._something.clear()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def cancel(self) -> None:
        """Give up what is still out, there as well as here."""
        going = list(self._out.values())
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    async def _carry(self, index: int, data: bytes) -> None:
        found: Ended | Exception
        try:
            found = await self._called(data)
        except Exception as error:  # noqa: BLE001 - it is raised where the result would stand
            found = error
        finally:
            self._out.pop(index, None)
        self._arrived.append((index, found))
        self._something.set()

    async def _called(self, data: bytes) -> Ended:
        while True:
            try:
                return await call(self._http, self._deployment_id, data)
            except QueueFullError as full:  # a map has time: it waits for room
                pause_s = full.retry_after_s or FULL_PAUSE_S
            except GlowplugError as error:
                if error.code != TOO_MANY:
                    raise
                pause_s = FULL_PAUSE_S
            await asyncio.sleep(pause_s)


class Course:
    """Where a map stands: what was pulled, what is out, what may be yielded. In the caller's thread."""

    def __init__(
        self,
        dump: Callable[[Any], bytes],
        *,
        ordered: bool,
        return_exceptions: bool,
        python_there: str = "",
    ) -> None:
        self.exhausted = False
        self._dump = dump
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._python_there = python_there
        self._pulled = 0
        self._yielded = 0
        self._out: dict[int, int] = {}  # index -> bytes
        self._waiting: dict[int, Ended | Exception] = {}
        self._held_bytes = 0

    @property
    def done(self) -> bool:
        """Whether every input has been yielded."""
        return self.exhausted and self._yielded == self._pulled

    def wants_more(self) -> bool:
        """Return whether another input may be pulled now."""
        return (
            not self.exhausted
            and len(self._out) < AT_ONCE
            and self._pulled - self._yielded < WINDOW_INPUTS
            and self._held_bytes < WINDOW_BYTES
        )

    def add(self, value: Any) -> tuple[int, bytes]:
        """Take an input; return it as it is sent."""
        data = self._dump(value)
        index = self._pulled
        self._pulled += 1
        self._out[index] = len(data)
        self._held_bytes += len(data)
        return index, data

    def came(self, arrivals: list[Came]) -> None:
        """Note how calls ended."""
        for index, found in arrivals:
            self._held_bytes += _size(found) - self._out.pop(index)
            self._waiting[index] = found

    def ready(self) -> Iterator[Ended | Exception]:
        """Yield what may be handed to the caller now."""
        while self._waiting:
            index = self._yielded if self._ordered else next(iter(self._waiting))
            if index not in self._waiting:
                return
            found = self._waiting.pop(index)
            self._yielded += 1
            self._held_bytes -= _size(found)
            yield found

    def value(self, found: Ended | Exception) -> Any:
        """Return one input's result, or raise (or return) its exception."""
        error: BaseException | None = found if isinstance(found, Exception) else None
        value: Any = None
        if isinstance(found, Ended):
            error, value = settle(found, self._python_there)
        if error is None:
            return value
        if self._return_exceptions and isinstance(error, Exception):
            return error
        raise error


def map_inputs(flight: Flight, course: Course, values: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield the results for some inputs, in the caller's thread."""
    run = background().run
    try:
        while True:
            inputs = []
            while course.wants_more():
                try:
                    inputs.append(course.add(next(values)))
                except StopIteration:
                    course.exhausted = True
            if inputs:
                run(flight.send(inputs))
            if course.done:
                return
            course.came(run(flight.arrivals()))
            for found in course.ready():
                yield course.value(found)
    finally:
        if not course.done:
            run(flight.cancel())


async def map_inputs_aio(
    flight: Flight, course: Course, values: AsyncIterator[Any]
) -> AsyncGenerator[Any, None]:
    """Yield the results for some inputs, in the caller's event loop."""
    wait = background().wait
    try:
        while True:
            inputs = []
            while course.wants_more():
                with contextlib.suppress(StopAsyncIteration):
                    inputs.append(course.add(await anext(values)))
                    continue
                course.exhausted = True
            if inputs:
                await wait(flight.send(inputs))
            if course.done:
                return
            course.came(await wait(flight.arrivals()))
            for found in course.ready():
                yield course.value(found)
    finally:
        if not course.done:
            await wait(flight.cancel())


def _size(found: Ended | Exception) -> int:
    return len(found.data) if isinstance(found, Ended) else 0
