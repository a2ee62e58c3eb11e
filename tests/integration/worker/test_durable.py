"""Durable work on a real broker: claimed, finished and lost by compare-and-set."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_contracts.messages.dispatch import RunInvocation
from glowplug_contracts.messages.invocation import (
    INLINE_BYTES_MAX,
    PLATFORM_RETRIES_MAX,
    Format,
    Input,
    Payload,
    RemoteError,
    RetryPolicy,
    State,
)
from glowplug_contracts.messages.record import InvocationRecord, record_headers
from glowplug_contracts.subjects import RECORD
from glowplug_worker import frames
from glowplug_worker.ports import Exit

from tests.support.builders_worker import (
    WORKER,
    WORKSPACE,
    Peer,
    ScriptedBackend,
    echo,
    open_worker,
)
from tests.support.eventually import eventually

AT = RECORD.at(shard=0, workspace=WORKSPACE, invocation_id="inv_1")


class Records:
    def __init__(self, bus: Any) -> None:
        self.bus = bus

    async def accept(self, **changes: Any) -> int:
        record = InvocationRecord(
            invocation_id="inv_1",
            workspace=WORKSPACE,
            deployment_id="dep_f",
            input=Input(args=Payload(format=Format.JSON, data=b"[7]", size=3)),
            accepted_at=1.0,
        )
        record = msgspec.structs.replace(record, **changes)
        return await self.bus.append(AT, record, expect_last=0, headers=record_headers(record))

    async def now(self) -> Any:
        return await self.bus.last(AT)

    async def state(self, *states: State) -> Any:
        async def look() -> Any:
            found = await self.now()
            return found if found.message.state in states else None

        return await eventually(look)


@pytest.fixture
def records(bus: Any) -> Records:
    return Records(bus)


def a_durable_run(sequence: int, container_id: str = "ctr_1") -> RunInvocation:
    return RunInvocation(
        shard=0,
        generation=1,
        container_id=container_id,
        deployment_id="dep_f",
        record="inv_1",
        record_sequence=sequence,
        workspace=WORKSPACE,
    )


async def dying(peer: Peer) -> Exit | None:
    await peer.greet()
    await peer.until("run")
    return Exit(signal=9)


async def waiting(peer: Peer) -> Exit | None:
    await peer.greet()
    await peer.until("never")
    return None


async def test_claims_runs_and_finishes(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    sequence = await records.accept(attempt=0)
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        await rest.bound()
        await rest.run(a_durable_run(sequence))
        await eventually(lambda: rest.ended)
    found = await records.now()
    record = found.message
    assert record.state is State.SUCCEEDED
    assert record.outcome.result.data == b"[7]"
    assert (record.attempt, record.worker_id, record.container_id) == (1, WORKER, "ctr_1")
    assert found.sequence == sequence + 2
    assert found.headers["Glowplug-State"] == "succeeded"
    assert "Nats-TTL" in found.headers


async def test_a_replica_that_has_not_heard_of_the_record_is_asked_again(
    bus: Any, rest: Any, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = await records.accept()
    behind = [None, None]
    last = type(bus).last

    async def last_of_a_replica(bus: Any, at: Any) -> Any:
        return behind.pop() if behind and at == AT else await last(bus, at)

    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        await rest.bound()
        monkeypatch.setattr(type(bus), "last", last_of_a_replica)
        await rest.run(a_durable_run(sequence))
        await eventually(lambda: rest.ended)
    assert not behind
    assert (await records.now()).message.state is State.SUCCEEDED


async def large(peer: Peer) -> Exit | None:
    """Answer with more than fits into a record."""
    await peer.greet()
    header, _ = await peer.until("run")
    peer.answer(header, b"x" * (INLINE_BYTES_MAX + 1))
    await peer.until("never")
    return None


@pytest.mark.parametrize(("keep_s", "at_least_s"), [(60.0, 60.0), (30 * 86_400.0, 30 * 86_400.0)])
async def test_a_large_result_is_kept_as_long_as_its_record(
    bus: Any, rest: Any, records: Records, tmp_path: Path, keep_s: float, at_least_s: float
) -> None:
    sequence = await records.accept(keep_result_s=keep_s)
    async with open_worker(bus, tmp_path, ScriptedBackend(large)) as worker:
        await rest.bound()
        await rest.run(a_durable_run(sequence))
        found = await records.state(State.SUCCEEDED)
        digest = found.message.outcome.result.blob
        assert len(worker.workshop.blobs.kept[digest]) == INLINE_BYTES_MAX + 1
        assert at_least_s < worker.workshop.blobs.kept_s[digest] <= 90 * 86_400


async def test_does_not_run_a_record_that_moved_on(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    sequence = await records.accept()
    backend = ScriptedBackend(echo)
    async with open_worker(bus, tmp_path, backend):
        await rest.bound()
        cancelled = msgspec.structs.replace((await records.now()).message, state=State.CANCELLED)
        await bus.append(AT, cancelled, expect_last=sequence)
        await rest.run(a_durable_run(sequence))
        await eventually(lambda: rest.ended)
    assert (await records.now()).message == cancelled


async def test_a_result_that_lost_the_race_is_dropped(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> Exit | None:
        await peer.greet()
        header, body = await peer.until("run")
        await go.wait()
        peer.answer(header, body)
        await peer.until("stop")
        return Exit(code=0)

    sequence = await records.accept()
    async with open_worker(bus, tmp_path, ScriptedBackend(slow)):
        await rest.bound()
        await rest.run(a_durable_run(sequence))
        running = await records.state(State.RUNNING)
        cancelled = msgspec.structs.replace(running.message, state=State.CANCELLED)
        await bus.append(AT, cancelled, expect_last=running.sequence)
        go.set()
        await eventually(lambda: rest.ended)
    assert (await records.now()).message == cancelled


async def test_a_failure_waits_for_its_retry(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    async def failing(peer: Peer) -> Exit | None:
        await peer.greet()
        while True:
            header, _ = await peer.until("run")
            error = RemoteError(code="function.failed", type="ValueError", message="no")
            peer.send(frames.Result(id=header["id"], index=0, state="failed", error=error))

    sequence = await records.accept(retry=RetryPolicy(max_retries=1, delay_s=30.0))
    async with open_worker(bus, tmp_path, ScriptedBackend(failing)):
        await rest.bound()
        await rest.run(a_durable_run(sequence))
        await eventually(lambda: rest.ended)
        found = await records.now()
        assert found.message.state is State.RETRY_WAIT
        assert found.message.due_at > found.message.started_at + 29
        assert float(found.headers["Glowplug-Due"]) == found.message.due_at
        await rest.run(a_durable_run(found.sequence))
        await eventually(lambda: len(rest.ended) == 2)
    record = (await records.now()).message
    assert (record.state, record.attempt, record.outcome.error.message) == (State.FAILED, 2, "no")


async def test_a_crash_puts_the_record_back_and_a_crash_loop_ends(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    sequence = await records.accept()
    async with open_worker(bus, tmp_path, ScriptedBackend(dying)):
        for lost in range(1, PLATFORM_RETRIES_MAX + 2):
            await rest.bound(container_id=f"ctr_{lost}")
            await rest.run(a_durable_run(sequence, f"ctr_{lost}"))
            failed = await rest.change("failed", f"ctr_{lost}")
            assert failed.error.details["signal"] == 9
            found = await records.now()
            sequence = found.sequence
            assert found.message.lost_attempts == lost
    assert found.message.state is State.DEAD
    assert found.message.outcome.error.code == "function.crashed"
    assert len(rest.ended) == PLATFORM_RETRIES_MAX + 1


async def test_a_timeout_is_the_records_end(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    sequence = await records.accept(timeout_s=0.05)
    async with open_worker(bus, tmp_path, ScriptedBackend(waiting)):
        await rest.bound()
        await rest.run(a_durable_run(sequence))
        stopped = await rest.change("stopped")
        assert stopped.reason == "timeout"
    record = (await records.now()).message
    assert (record.state, record.outcome.error.code) == (State.TIMED_OUT, "function.timeout")


async def test_a_stopped_worker_gives_running_records_back(
    bus: Any, rest: Any, records: Records, tmp_path: Path
) -> None:
    sequence = await records.accept()
    async with open_worker(bus, tmp_path, ScriptedBackend(waiting)):
        await rest.bound()
        await rest.run(a_durable_run(sequence))
        await records.state(State.RUNNING)
    record = (await records.now()).message
    assert (record.state, record.lost_attempts) == (State.RETRY_WAIT, 1)
