"""Durable work that a gateway sends straight here, claimed already: run at once, fenced as ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.invocation import Format, Input, Payload, RetryPolicy, State
from glowplug_contracts.messages.link import (
    LINK_FRAME_BYTES_MAX,
    CallCancelled,
    CallRefused,
    TaskEnded,
    TaskSent,
)
from glowplug_contracts.messages.record import InvocationRecord, record_headers
from glowplug_contracts.subjects import RECORD

from tests.integration.worker.test_direct import linked
from tests.support.builders_worker import WORKER, WORKSPACE, Peer, ScriptedBackend, echo
from tests.support.eventually import eventually


def at(name: str) -> Any:
    return RECORD.at(shard=0, workspace=WORKSPACE, invocation_id=name)


async def a_task(bus: Any, name: str = "inv_1", **changes: Any) -> TaskSent:
    """Store a record as its gateway does, and return the frame that follows."""
    record = InvocationRecord(
        invocation_id=name,
        workspace=WORKSPACE,
        deployment_id="dep_f",
        input=Input(args=Payload(format=Format.JSON, data=b"[7]", size=3)),
        state=State.RUNNING,
        attempt=1,
        accepted_at=1.0,
        started_at=1.0,
        worker_id=WORKER,
        container_id="ctr_1",
    )
    record = msgspec.structs.replace(record, **changes)
    sequence = await bus.append(at(name), record, expect_last=0, headers=record_headers(record))
    return TaskSent(container_id="ctr_1", shard=0, sequence=sequence, record=record)


class Held:
    """A runner that begins, and answers when it is let go."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.begun: list[Any] = []

    async def __call__(self, peer: Peer) -> None:
        await peer.greet()
        while True:
            header, body = await peer.receive()
            if header["type"] == "run":
                self.begun.append(header)
                await self.release.wait()
                peer.answer(header, body)


async def test_runs_at_once_and_tells_its_end_when_that_is_stored(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        sent = await a_task(bus)
        await gateway.send(sent)
        told = await gateway.hear(TaskEnded)
        found = await bus.last(at("inv_1"))
        assert (told.sequence, told.record) == (found.sequence, found.message)
        assert found.sequence == sent.sequence + 1  # one word more: it was not claimed again
        record = found.message
        assert (record.state, record.outcome.result.data) == (State.SUCCEEDED, b"[7]")
        assert (record.attempt, record.order) == (1, sent.sequence)
        assert [(line.number, line.worker_id) for line in record.attempts] == [(1, WORKER)]
        assert (told.slots.free, told.slots.seen) == (1, 1)
        await eventually(lambda: rest.ended)
        assert rest.ended[0].invocation_ids == ("inv_1",)


async def test_what_was_taken_back_meanwhile_is_not_ended_here(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    held = Held()
    async with linked(bus, tmp_path, ScriptedBackend(held)) as (gateway, _):
        await rest.bound()
        sent = await a_task(bus)
        await gateway.send(sent)
        await eventually(lambda: held.begun)
        back = msgspec.structs.replace(sent.record, state=State.RETRY_WAIT, lost_attempts=1)
        last = await bus.append(
            at("inv_1"), back, expect_last=sent.sequence, headers=record_headers(back)
        )
        held.release.set()
        told = await gateway.hear(TaskEnded)
        assert (told.record, told.slots.free) == (None, 1)
        assert (await bus.last(at("inv_1"))).sequence == last


async def test_a_failed_try_goes_to_its_next_one(bus: Any, rest: Any, tmp_path: Path) -> None:
    async def failing(peer: Peer) -> None:
        await peer.greet()
        while True:
            header, _ = await peer.receive()
            if header["type"] == "run":
                peer.fail(header)

    async with linked(bus, tmp_path, ScriptedBackend(failing)) as (gateway, _):
        await rest.bound()
        await gateway.send(await a_task(bus, retry=RetryPolicy(max_retries=1, delay_s=60.0)))
        assert (await gateway.hear(TaskEnded)).record is None  # it has not ended
        record = (await bus.last(at("inv_1"))).message
        assert (record.state, record.user_attempts) == (State.RETRY_WAIT, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"worker_id": WorkerId("another")},
        {"container_id": "ctr_2"},
        {"state": State.ACCEPTED},
        {"deployment_id": "dep_other"},
        {"workspace": "other"},
        {"pass_as": "value"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_what_does_not_say_itself_that_it_runs_here_is_refused(
    bus: Any, rest: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    held = Held()
    async with linked(bus, tmp_path, ScriptedBackend(held)) as (gateway, _):
        await rest.bound()
        sent = await a_task(bus)
        wrong = msgspec.structs.replace(sent.record, **changes)
        await gateway.send(msgspec.structs.replace(sent, record=wrong))
        refused = await gateway.hear(CallRefused)
        assert (refused.invocation_id, refused.reason, refused.slots.free) == (
            "inv_1",
            "unknown",
            1,
        )
        assert held.begun == []


async def test_one_slot_takes_one_and_the_same_frame_again_is_the_same_one(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    held = Held()
    async with linked(bus, tmp_path, ScriptedBackend(held)) as (gateway, _):
        await rest.bound()
        sent = await a_task(bus)
        for frame in (
            sent,
            sent,
            await a_task(bus, "inv_2"),
            msgspec.structs.replace(sent, sequence=sent.sequence + 9),
        ):
            await gateway.send(frame)
        heard = [await gateway.hear(CallRefused) for _ in range(2)]
        assert [(one.invocation_id, one.reason) for one in heard] == [
            ("inv_2", "full"),
            ("inv_1", "known"),
        ]
        held.release.set()
        assert (await gateway.hear(TaskEnded)).record.state is State.SUCCEEDED
        assert len(held.begun) == 1


async def test_a_cancel_through_the_link_stops_it(bus: Any, rest: Any, tmp_path: Path) -> None:
    async def patient(peer: Peer) -> None:
        await peer.greet()
        header: dict[str, Any] = {}
        while True:
            got, _ = await peer.receive()
            if got["type"] == "run":
                header = got
            elif got["type"] == "cancel":
                peer.fail(header, code="invocation.cancelled")

    async with linked(bus, tmp_path, ScriptedBackend(patient)) as (gateway, _):
        await rest.bound()
        await gateway.send(await a_task(bus))
        await gateway.send(CallCancelled(invocation_id="inv_1"))
        assert (await gateway.hear(TaskEnded)).record.state is State.CANCELLED


async def test_an_end_that_no_frame_can_carry_is_told_of_without_it(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with linked(bus, tmp_path, ScriptedBackend(echo)) as (gateway, _):
        await rest.bound()
        data = b"[" + b"1" * (200 * 1024) + b"]"
        args = Input(args=Payload(format=Format.JSON, data=data, size=len(data)))
        rest_of_it = {"about": "x" * (LINK_FRAME_BYTES_MAX - 300 * 1024)}
        await gateway.send(await a_task(bus, input=args, headers=rest_of_it))
        told = await gateway.hear(TaskEnded)
        assert (told.record, told.slots.free) == (None, 1)
        assert (await bus.last(at("inv_1"))).message.state is State.SUCCEEDED
