"""Storing messages in streams: alone, or many in one atomic batch.

A batch is the broker's: its members carry headers, the last one is a request, and either all are stored
(with one sync) or none. The broker refuses the whole batch for one member that comes second, without
saying which; so a refused batch is halved until the ones that fit are stored, and what is left goes alone.
A batch whose answer was lost may have been stored: its members go alone too, each looking for itself first.
Source: the broker's ADR-50 (atomic batch publishing).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from glowplug_contracts.errors import (
    ConflictError,
    InvariantError,
    OverloadedError,
    PlatformError,
    UnavailableError,
)

from glowplug_runtime.silence import Silences
from glowplug_runtime.wire import Msg, NoRespondersError, WireError

if TYPE_CHECKING:
    from glowplug_runtime.library import LibraryClient
    from glowplug_runtime.wire import WireClient

WRONG_LAST_SEQUENCE = 10071
# The leader has not applied yet what a consumer's replica has shown us already: not a conflict.
NOT_APPLIED_YET = 10164
STREAM_FULL = frozenset({10077, 10047})
TRY_TIMEOUT_S = 3.0
# So long the broker has to answer a ping, where a write of ours had no answer.
PING_TIMEOUT_S = 1.0
RETRY_FIRST_S = 0.02
# As long as a stream has no leader its broker says so at once; when it has one, callers wait no longer than this.
RETRY_MAX_S = 0.2

# The broker takes 1,000 messages a batch; beyond some hundreds one gains nothing, and waits longer.
BATCH_MESSAGES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
# The first one goes out at once: the broker makes files for a batch when it hears of it.
SENT_TOGETHER = 64
# A batch costs the broker some milliseconds of its own; fewer messages than this are faster alone.
BATCH_MESSAGES_MIN = 16


class Raw(msgspec.Struct, frozen=True):
    """A message as it goes out."""

    subject: str
    data: bytes
    headers: dict[str, str]


Stored = int | PlatformError


class Appender:
    """See the module."""

    def __init__(
        self,
        client: WireClient | LibraryClient,
        last_of: Callable[[str, str], Awaitable[Msg | None]],
    ) -> None:
        self._nc = client
        self._last_of = last_of
        self.silences = Silences()

    async def append(self, stream: str, raw: Raw, timeout_s: float, *, unsure: bool = False) -> int:
        """Store one; try again until it is answered. `unsure`: it may have been stored already.

        Raises: as `Bus.append`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pause_s = RETRY_FIRST_S
        while True:
            asked_at = loop.time()
            left_s = deadline - asked_at
            if left_s <= 0:
                raise _unanswered(raw.subject, timeout_s)
            try:
                answer = await self._nc.request(
                    raw.subject,
                    raw.data,
                    timeout_s=min(left_s, TRY_TIMEOUT_S),
                    headers=raw.headers or None,
                )
            except NoRespondersError:
                pass  # no leader, or the stream is being made
            except (TimeoutError, WireError) as error:
                unsure = True
                await self._note_silence(stream, asked_at, error)
            else:
                self.silences.answered(stream)
                try:
                    sequence = _sequence_in(answer.data, raw.subject)
                except ConflictError:
                    sequence = await self._find_mine(stream, raw) if unsure else 0
                    if not sequence:
                        raise
                if sequence:
                    return sequence
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _note_silence(self, stream: str, asked_at: float, error: Exception) -> None:
        """Note that a stream left a write unanswered, if it is the stream's doing and not the broker's."""
        if isinstance(error, TimeoutError):
            with contextlib.suppress(TimeoutError, WireError):
                async with asyncio.timeout(PING_TIMEOUT_S):
                    await self._nc.flush()
                self.silences.unanswered(stream, asked_at, asyncio.get_running_loop().time())

    async def _find_mine(self, stream: str, raw: Raw) -> int:
        """Return the sequence of the subject's last message if it is the one we were unsure about."""
        last = await self._last_of(stream, raw.subject)
        if last is None or last.data != raw.data:
            return 0
        return int((last.headers or {})["Nats-Sequence"])

    async def append_many(
        self, stream: str, raws: Sequence[Raw], timeout_s: float
    ) -> Sequence[Stored]:
        """Store many, in batches; return what became of each, in order."""
        stored: list[Stored] = []
        for batch in cut(raws):
            stored += await self._append_batch(stream, batch, timeout_s)
        return stored

    async def _append_batch(
        self, stream: str, raws: Sequence[Raw], timeout_s: float
    ) -> Sequence[Stored]:
        if len(raws) < BATCH_MESSAGES_MIN:
            return await self._append_alone(stream, raws, timeout_s, unsure=False)
        try:
            last = await self._commit(raws)
            self.silences.answered(stream)
        except NoRespondersError:
            return await self._append_alone(stream, raws, timeout_s, unsure=False)
        except (TimeoutError, WireError):
            return await self._append_alone(stream, raws, timeout_s, unsure=True)
        if last:
            return range(last - len(raws) + 1, last + 1)
        half = len(raws) // 2
        return [
            *await self._append_batch(stream, raws[:half], timeout_s),
            *await self._append_batch(stream, raws[half:], timeout_s),
        ]

    async def _commit(self, raws: Sequence[Raw]) -> int:
        """Store all or none; return the last one's sequence, 0 if the broker refused."""
        batch_id = os.urandom(12).hex()
        for number, raw in enumerate(raws, 1):
            headers = raw.headers | {
                "Nats-Batch-Id": batch_id,
                "Nats-Batch-Sequence": str(number),
            }
            if number < len(raws):
                await self._nc.publish(raw.subject, raw.data, headers=headers)
            if number % SENT_TOGETHER == 1:
                await asyncio.sleep(0)  # out with it: the broker works while we write the next ones
        headers["Nats-Batch-Commit"] = "1"
        answer = await self._nc.request(raw.subject, raw.data, TRY_TIMEOUT_S, headers)
        ack = msgspec.json.decode(answer.data)
        return 0 if "error" in ack or ack.get("count") != len(raws) else int(ack["seq"])

    async def _append_alone(
        self, stream: str, raws: Sequence[Raw], timeout_s: float, *, unsure: bool
    ) -> Sequence[Stored]:
        async def one(raw: Raw) -> Stored:
            try:
                return await self.append(stream, raw, timeout_s, unsure=unsure)
            except PlatformError as error:
                return error

        return await asyncio.gather(*(one(raw) for raw in raws))


def cut(raws: Sequence[Raw]) -> Iterator[Sequence[Raw]]:
    """Yield the messages in runs that fit into a batch."""
    start, size = 0, 0
    for number, raw in enumerate(raws):
        full = number - start == BATCH_MESSAGES_MAX or size + len(raw.data) > BATCH_BYTES_MAX
        if full and number > start:
            yield raws[start:number]
            start, size = number, 0
        size += len(raw.data)
    if start < len(raws):
        yield raws[start:]


def _sequence_in(answer: bytes, subject: str) -> int:
    """Return the sequence that the broker gave, 0 if it is to be asked again."""
    ack = msgspec.json.decode(answer)
    error = ack.get("error")
    if error is None:
        return int(ack["seq"])
    code, said = error.get("err_code", 0), error.get("description", "")
    if code == WRONG_LAST_SEQUENCE:
        raise ConflictError("invocation.conflict", f"{subject} was changed by somebody else first")
    if code in STREAM_FULL:
        raise OverloadedError("scheduler.overloaded", f"{subject}: {said}", retry_after_s=1)
    if code == NOT_APPLIED_YET or error.get("code") in (503, 404):
        return 0
    raise InvariantError("platform.bug", f"storing to {subject}: {said} ({code})")


def _unanswered(subject: str, timeout_s: float) -> UnavailableError:
    return UnavailableError(
        "platform.unavailable",
        f"storing to {subject}: no acknowledgement within {timeout_s} s",
        retry_after_s=1,
    )
