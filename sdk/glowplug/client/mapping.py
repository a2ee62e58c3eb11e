"""Mapping a function over many inputs: lazily, in bounded memory, results in order.

The caller's thread pulls inputs, pickles them and yields results; the background loop posts batches
and collects outcomes. No more than WINDOW_INPUTS inputs (or WINDOW_BYTES of arguments and results) lie
between what was pulled and what was yielded, so an endless iterator is fine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.http import HEADER_TRACE, MSGPACK_TYPE, MapRequest
from glowplug_contracts.messages.invocation import (
    INLINE_BYTES_MAX,
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    State,
)

from glowplug.client.batching import RAMP_S, BatchSizer, fits
from glowplug.client.blobs import put_blob
from glowplug.client.calls import cancel_call, new_invocation_id, new_trace, payload_bytes
from glowplug.client.http import BrokenAnswerError, Http
from glowplug.client.loop import background
from glowplug.client.outcomes import Ended, exception_of, input_ended, read_value
from glowplug.client.wire import frames
from glowplug.errors import GlowplugError, QueueFullError

WINDOW_INPUTS = 4096
WINDOW_BYTES = 64 * 1024 * 1024
FILL_S = 0.05
FULL_PAUSE_S = 0.5
CANCELS_AT_ONCE = 16

_encode = msgspec.msgpack.Encoder().encode


@dataclass
class Batch:
    """Some inputs that travel together."""

    invocation_id: str
    inputs: list[tuple[int, bytes]]
    size: int
    missing: set[int] = field(default_factory=set)


class Flight:
    """The batches of one map that are out. Everything but construction runs in the background loop."""

    def __init__(self, http: Http, deployment_id: str) -> None:
        self._http = http
        self._deployment_id = deployment_id
        self._arrived: list[tuple[Batch, InputOutcome]] = []
        self._something = asyncio.Event()
        self._posting: dict[str, tuple[Batch, asyncio.Task[None]]] = {}
        self._trace = new_trace()

    async def send(self, batches: list[Batch]) -> None:
        """Post batches; their outcomes arrive later."""
        for batch in batches:
            batch.missing = {index for index, _ in batch.inputs}
            task = background().start(self._carry(batch))
            self._posting[batch.invocation_id] = (batch, task)

    async def arrivals(self, timeout_s: float | None) -> list[tuple[Batch, InputOutcome]]:
        """Return what has come, waiting for at least one outcome (or so many seconds)."""
        if not self._arrived:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._something.wait()
        self._something.clear()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def cancel(self) -> None:
        """Give up what is still out, there as well as here."""
        going = [(batch, task) for batch, task in self._posting.values() if not task.done()]
        for _, task in going:
            task.cancel()
        for at in range(0, len(going), CANCELS_AT_ONCE):
            some = going[at : at + CANCELS_AT_ONCE]
            await asyncio.gather(
                *(cancel_call(self._http, batch.invocation_id) for batch, _ in some)
            )

    async def fetch(self, payload: Payload) -> bytes:
        """Return a result's bytes where they are a blob."""
        return await payload_bytes(self._http, payload)

    async def _carry(self, batch: Batch) -> None:
        """See one batch through: every input of it gets an outcome."""
        try:
            body = _encode(
                MapRequest(
                    invocation_id=InvocationId(batch.invocation_id),
                    inputs=tuple([await self._input(index, data) for index, data in batch.inputs]),
                )
            )
            await self._post_until_done(batch, body)
        except (GlowplugError, msgspec.MsgspecError, OSError) as err:
            error = _platform_error(err)
            for index in sorted(batch.missing):
                outcome = InputOutcome(index=index, state=State.FAILED, error=error)
                self._arrived.append((batch, outcome))
        finally:
            self._posting.pop(batch.invocation_id, None)
            self._something.set()

    async def _input(self, index: int, data: bytes) -> Input:
        if len(data) <= INLINE_BYTES_MAX:
            return Input(index=index, args=Payload(format=Format.PICKLE, data=data, size=len(data)))
        digest = await put_blob(self._http, data, look_first=False)
        payload = Payload(format=Format.PICKLE, blob=digest, size=len(data))  # type: ignore[arg-type]
        return Input(index=index, args=payload)

    async def _post_until_done(self, batch: Batch, body: bytes) -> None:
        async def once(url: str) -> None:
            async with self._http.open_stream(
                url,
                "POST",
                f"/api/v1/deployments/{self._deployment_id}/map",
                body=body,
                headers={"Content-Type": MSGPACK_TYPE, HEADER_TRACE: self._trace},
            ) as response:
                async for outcomes in frames(response, InputOutcome):
                    self._take(batch, outcomes)
            if batch.missing:
                raise BrokenAnswerError(f"{len(batch.missing)} outcomes are missing")

        while batch.missing:
            try:
                await self._http.retrying(once)
            except QueueFullError as full:  # a map has time: it waits for room
                await asyncio.sleep(full.retry_after_s or FULL_PAUSE_S)

    def _take(self, batch: Batch, outcomes: list[InputOutcome]) -> None:
        # The same invocation asked for again brings outcomes again: each counts once.
        for outcome in outcomes:
            if outcome.index in batch.missing:
                batch.missing.discard(outcome.index)
                self._arrived.append((batch, outcome))
        self._something.set()


class Course:
    """Where a map stands: what was pulled, what is out, what may be yielded. In the caller's thread.

    Args:
        pickle_input: makes one input's bytes.
        sizer: how large batches are; it may know the function from an earlier map.
        ordered: yield in the order of the inputs.
        return_exceptions: put an exception in its slot instead of raising it.
    """

    def __init__(
        self,
        pickle_input: Callable[[Any], bytes],
        sizer: BatchSizer,
        *,
        ordered: bool,
        return_exceptions: bool,
        python_there: str = "",
    ) -> None:
        self.exhausted = False
        self._pickle_input = pickle_input
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._python_there = python_there
        self._sizer = sizer
        self._pulled = 0
        self._yielded = 0
        self._batches_out = 0
        self._held_bytes = 0
        self._left: dict[str, int] = {}
        self._waiting: dict[int, tuple[Batch, InputOutcome]] = {}
        self._over: tuple[int, bytes] | None = None

    @property
    def done(self) -> bool:
        """Whether every input has been yielded."""
        return self.exhausted and self._over is None and self._yielded == self._pulled

    def wants_more(self) -> bool:
        """Return whether another batch may be filled now."""
        return (
            (not self.exhausted or self._over is not None)
            and self._pulled - self._yielded < WINDOW_INPUTS
            and self._held_bytes < WINDOW_BYTES
            and self._sizer.may_send(self._batches_out, time.monotonic())
        )

    def wait_s(self) -> float | None:
        """Return how long to wait for outcomes before looking again; None = until one comes."""
        if self._batches_out == 0 or self.wants_more():
            return 0.0
        return None if self.exhausted or self._sizer.size > 1 else RAMP_S

    def room(self, batch: Batch) -> bool:
        """Return whether a batch takes another input."""
        return len(batch.inputs) < self._sizer.size

    def new_batch(self) -> Batch:
        """Return an empty batch, with the input that the last one had no room for."""
        batch = Batch(new_invocation_id(), [], 0)
        if self._over is not None:
            self._put(batch, *self._over)
            self._over = None
        return batch

    def add(self, batch: Batch, value: Any) -> bool:
        """Put one more input into a batch; return whether it takes another."""
        data = self._pickle_input(value)
        index = self._pulled
        self._pulled += 1
        self._held_bytes += len(data)
        if not fits(len(batch.inputs), batch.size, len(data), self._sizer.size):
            self._over = (index, data)
            return False
        self._put(batch, index, data)
        return self.room(batch)

    def sent(self, batch: Batch) -> None:
        """Note that a batch is out."""
        self._left[batch.invocation_id] = len(batch.inputs)
        self._batches_out += 1
        self._sizer.sent(time.monotonic())

    def came(self, arrivals: list[tuple[Batch, InputOutcome]]) -> None:
        """Note outcomes."""
        for batch, outcome in arrivals:
            result = outcome.result
            size = len(result.data or b"") if result is not None else 0
            whole = result.size or size if result is not None else 0
            self._sizer.ended(outcome.run_ms, whole)
            self._held_bytes += size
            self._waiting[outcome.index] = (batch, outcome)
            self._left[batch.invocation_id] -= 1
            if self._left[batch.invocation_id] == 0:
                del self._left[batch.invocation_id]
                self._batches_out -= 1
                self._held_bytes -= batch.size
        self._sizer.learned()

    def ready(self) -> Iterator[tuple[Batch, InputOutcome]]:
        """Yield what may be handed to the caller now."""
        while self._waiting:
            index = self._yielded if self._ordered else next(iter(self._waiting))
            found = self._waiting.pop(index, None)
            if found is None:
                return
            self._yielded += 1
            result = found[1].result
            self._held_bytes -= len(result.data or b"") if result is not None else 0
            yield found

    def value(self, batch: Batch, outcome: InputOutcome, data: bytes) -> Any:
        """Return one input's result, or raise (or return) its exception."""
        ended: Ended = input_ended(outcome, data, batch.invocation_id)
        if outcome.state is State.SUCCEEDED:
            return read_value(ended.format, data, self._python_there)
        error = exception_of(ended)
        if self._return_exceptions and isinstance(error, Exception):
            return error
        raise error

    def _put(self, batch: Batch, index: int, data: bytes) -> None:
        batch.inputs.append((index, data))
        batch.size += len(data)


def map_inputs(flight: Flight, course: Course, values: Iterator[Any]) -> Iterator[Any]:
    """Yield the results for some inputs, in the caller's thread."""
    run = background().run
    try:
        while not course.done:
            run(flight.send(list(_batches(course, values))))
            course.came(run(flight.arrivals(course.wait_s())))
            for batch, outcome in course.ready():
                yield course.value(batch, outcome, _data(outcome, lambda p: run(flight.fetch(p))))
    finally:
        if not course.done:
            run(flight.cancel())


async def map_inputs_aio(
    flight: Flight, course: Course, values: AsyncIterator[Any]
) -> AsyncIterator[Any]:
    """Yield the results for some inputs, in the caller's event loop."""
    wait = background().wait
    try:
        while not course.done:
            batches = [batch async for batch in _batches_aio(course, values)]
            await wait(flight.send(batches))
            course.came(await wait(flight.arrivals(course.wait_s())))
            for batch, outcome in course.ready():
                blob = outcome.result is not None and outcome.result.blob is not None
                data = await wait(flight.fetch(outcome.result)) if blob else _data(outcome, None)  # type: ignore[arg-type]
                yield course.value(batch, outcome, data)
    finally:
        if not course.done:
            await wait(flight.cancel())


def _batches(course: Course, values: Iterator[Any]) -> Iterator[Batch]:
    until = time.monotonic() + FILL_S
    while course.wants_more() and time.monotonic() < until:
        batch = course.new_batch()
        more = course.room(batch)
        while more and time.monotonic() < until:
            try:
                value = next(values)
            except StopIteration:
                course.exhausted = True
                break
            more = course.add(batch, value)
        if batch.inputs:
            course.sent(batch)
            yield batch


async def _batches_aio(course: Course, values: AsyncIterator[Any]) -> AsyncIterator[Batch]:
    until = time.monotonic() + FILL_S
    while course.wants_more() and time.monotonic() < until:
        batch = course.new_batch()
        more = course.room(batch)
        while more and time.monotonic() < until:
            try:
                value = await anext(values)
            except StopAsyncIteration:
                course.exhausted = True
                break
            more = course.add(batch, value)
        if batch.inputs:
            course.sent(batch)
            yield batch


def _data(outcome: InputOutcome, fetch: Callable[[Payload], bytes] | None) -> bytes:
    if outcome.result is None:
        return b""
    if outcome.result.blob is not None and fetch is not None:
        return fetch(outcome.result)
    return outcome.result.data or b""


def _platform_error(err: Exception) -> RemoteError:
    if isinstance(err, GlowplugError):
        return RemoteError(
            code=err.code, type=type(err).__name__, message=err.message, details=err.details
        )
    return RemoteError(code="platform.unavailable", type=type(err).__name__, message=str(err))
