"""Writing durable work, alone or gathered into batches: the shell of `gathering`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
from glowplug_contracts.errors import OverloadedError, PlatformError
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.subjects import shard_of
from glowplug_runtime.bus import Write

from glowplug_gateway.gathering import Decision, Gathering, Submitted, Turn, Written
from glowplug_gateway.ports import Platform

STORE_S = 10.0
# What a record weighs beside its arguments, roughly; only bounds use it.
RECORD_BYTES = 1_024
TURNS = 3

Stored = int | PlatformError


class _Waiting(msgspec.Struct):
    write: Write[InvocationRecord]
    stored: asyncio.Future[Stored]


class Submitter:
    """See the module. Each shard's stream gathers for itself."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._shards: dict[int, Gathering] = {}
        self._tickets = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}

    async def submit(self, writes: Sequence[Write[InvocationRecord]]) -> Sequence[Stored]:
        """Write records of one workspace; return each one's sequence or error, once it is on disk."""
        loop = asyncio.get_running_loop()
        shard = shard_of(writes[0].message.workspace, self._platform.shards)
        mine = []
        tickets = []
        for write in writes:
            ticket = next(self._tickets)
            self._waiting[ticket] = _Waiting(write, loop.create_future())
            mine.append(self._waiting[ticket].stored)
            tickets.append((ticket, RECORD_BYTES + len(write.message.input.args.data or b"")))
        gathering = self._shards.setdefault(shard, Gathering())
        self._perform(shard, gathering.step(Submitted(tuple(tickets))))
        return [await stored for stored in mine]

    def _perform(self, shard: int, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Turn):
                for ticket in decision.tickets:
                    _settle(self._waiting.pop(ticket), _too_many())
            else:
                self._platform.spawn(self._write(shard, decision.tickets), "submit")

    async def _write(self, shard: int, tickets: tuple[int, ...]) -> None:
        waiting = [self._waiting.pop(ticket) for ticket in tickets]
        stored: Sequence[Stored] = [_unavailable()] * len(waiting)
        try:
            stored = await self._store([one.write for one in waiting])
        finally:
            for one, result in zip(waiting, stored, strict=True):
                _settle(one, result)
            if len(waiting) > 1:
                # Whoever goes on submitting at once should be in the next batch, not in the one after it.
                await _let_others_run()
            self._perform(shard, self._shards[shard].step(Written(tickets)))

    async def _store(self, writes: Sequence[Write[Any]]) -> Sequence[Stored]:
        bus = self._platform.bus
        if len(writes) > 1:
            return await bus.append_many(writes, timeout_s=STORE_S)
        one = writes[0]
        try:
            return [
                await bus.append(
                    one.to,
                    one.message,
                    expect_last=one.expect_last,
                    headers=one.headers,
                    ttl_s=one.ttl_s,
                    timeout_s=STORE_S,
                )
            ]
        except PlatformError as error:
            return [error]


async def _let_others_run() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def _settle(one: _Waiting, result: Stored) -> None:
    if not one.stored.done():  # whoever waited may have gone
        one.stored.set_result(result)


def _too_many() -> OverloadedError:
    return OverloadedError(
        "scheduler.overloaded", "too many submissions wait for the disk already", retry_after_s=1
    )


def _unavailable() -> OverloadedError:
    return OverloadedError(
        "scheduler.overloaded", "the submission was interrupted; send it again", retry_after_s=1
    )
