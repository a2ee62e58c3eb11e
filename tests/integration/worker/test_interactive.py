"""Interactive work on a real broker, with scripted runners."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from glowplug_contracts.messages.dispatch import CancelInvocation, ShardOwned
from glowplug_contracts.messages.invocation import (
    InputOutcome,
    Outcome,
    RemoteError,
    RetryPolicy,
    State,
    StreamCredit,
)
from glowplug_contracts.subjects import (
    CANCEL_ATTEMPT,
    OUTCOME,
    SHARD_OWNED,
    STREAM_CREDIT,
)
from glowplug_worker import frames
from glowplug_worker.ports import Exit

from tests.support.builders_worker import (
    WORKER,
    WORKSPACE,
    Peer,
    ScriptedBackend,
    a_request,
    echo,
    open_worker,
)
from tests.support.eventually import eventually


async def test_runs_a_call_and_frees_its_slot(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)) as worker:
        ready = await rest.bound()
        assert ready.slots == 1
        await rest.run(a_request(data=b'{"args":[1],"kwargs":{}}'))
        await eventually(lambda: rest.ended)
        (link,) = rest.links
        assert link.last
        assert link.outcomes[0].result.data == b'{"args":[1],"kwargs":{}}'
        assert rest.ended[0].invocation_ids == ("inv_1",)
        assert worker.supervisors["ctr_1"].flights == {}
        stored = await bus.all(OUTCOME.at(shard=0, workspace=WORKSPACE, invocation_id="inv_1"))
        assert [each.message for each in stored] == [link]


async def test_a_batch_has_one_outcome_per_input_and_says_which_link_is_last(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        await rest.bound()
        await rest.run(a_request(inputs=200))
        await eventually(lambda: rest.ended)
        assert sorted(each.index for each in rest.outcomes) == list(range(200))
        assert [link.last for link in rest.links] == [False] * (len(rest.links) - 1) + [True]
        assert rest.ended[0].inputs == 200


async def test_a_second_attempt_replays_what_the_first_finished_and_runs_only_the_rest(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    ran: list[int] = []

    async def noting(peer: Peer) -> Exit | None:
        await peer.greet()
        while True:
            header, body = await peer.receive()
            if header["type"] == "run":
                ran.append(header["index"])
                peer.answer(header, body)

    first = Outcome(
        invocation_id="inv_1",
        attempt=1,
        outcomes=(InputOutcome(index=0, state=State.SUCCEEDED, run_ms=7.0),),
        last=False,
    )
    await bus.append(
        OUTCOME.at(shard=0, workspace=WORKSPACE, invocation_id="inv_1"), first, expect_last=0
    )
    async with open_worker(bus, tmp_path, ScriptedBackend(noting)):
        await rest.bound()
        await rest.run(a_request(inputs=3, attempt=2))
        await eventually(lambda: rest.ended)
    assert ran == [1, 2]
    assert rest.links[0] == first
    assert sorted(each.index for each in rest.outcomes) == [0, 1, 2]


async def test_of_two_attempts_that_finish_one_outcome_is_told_twice(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    """The chain got its link from elsewhere while ours ran: ours is dropped."""
    elsewhere = Outcome(
        invocation_id="inv_1",
        attempt=2,
        outcomes=(InputOutcome(index=0, state=State.SUCCEEDED, run_ms=7.0),),
    )
    go = asyncio.Event()

    async def waiting(peer: Peer) -> Exit | None:
        await peer.greet()
        header, body = await peer.until("run")
        await go.wait()
        peer.answer(header, body)
        await peer.until("stop")
        return Exit(code=0)

    async with open_worker(bus, tmp_path, ScriptedBackend(waiting)):
        await rest.bound()
        await rest.run(a_request())
        await bus.append(
            OUTCOME.at(shard=0, workspace=WORKSPACE, invocation_id="inv_1"),
            elsewhere,
            expect_last=0,
        )
        go.set()
        await eventually(lambda: rest.ended)
    assert rest.links == [elsewhere]


async def test_what_was_printed_reaches_the_gateway_before_the_answer(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def printing(peer: Peer) -> Exit | None:
        await peer.greet()
        while True:
            header, body = await peer.receive()
            if header["type"] == "run":
                peer.send(frames.Log(stream="stdout", id=header["id"]), b"hello\n")
                peer.answer(header, body)

    async with open_worker(bus, tmp_path, ScriptedBackend(printing)):
        await rest.bound()
        for number in range(20):
            await rest.run(a_request(f"inv_{number}"))
            await eventually(lambda number=number: len(rest.ended) == number + 1)
    for number in range(20):
        answered = next(
            at
            for at, each in enumerate(rest.order)
            if getattr(each, "outcome", None) and each.outcome.invocation_id == f"inv_{number}"
        )
        printed = [
            line
            for each in rest.order[:answered]
            for line in getattr(each, "lines", ())
            if line.invocation_id == f"inv_{number}"
        ]
        assert [line.text for line in printed] == ["hello\n"]


async def test_large_results_become_blobs(bus: Any, rest: Any, tmp_path: Path) -> None:
    size = 3_000_000

    async def large(peer: Peer) -> Exit | None:
        await peer.greet()
        header, _ = await peer.until("run")
        result = frames.Result(id=header["id"], index=0, state="succeeded", format="pickle")
        for frame in frames.encode_frames(result, b"x" * size):
            peer.send_raw(frame)
        await peer.until("stop")
        return Exit(code=0)

    async with open_worker(bus, tmp_path, ScriptedBackend(large)) as worker:
        await rest.bound()
        await rest.run(a_request())
        await eventually(lambda: rest.ended)
        result = rest.outcomes[0].result
        assert result.data is None
        assert result.size == size
        assert len(worker.workshop.blobs.kept[result.blob]) == size


async def test_retries_of_user_errors_happen_before_the_outcome(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    tries = 0

    async def failing(peer: Peer) -> Exit | None:
        nonlocal tries
        await peer.greet()
        while True:
            header, body = await peer.until("run")
            tries += 1
            if tries == 3:
                peer.answer(header, body)
                continue
            error = RemoteError(
                code="function.failed",
                type="KeyError",
                message="k",
                details={"mro": ["KeyError", "LookupError", "Exception"]},
            )
            peer.send(frames.Result(id=header["id"], index=0, state="failed", error=error))

    async with open_worker(bus, tmp_path, ScriptedBackend(failing)):
        await rest.bound()
        policy = RetryPolicy(max_retries=2, retry_for=("LookupError",))
        await rest.run(a_request(retry=policy))
        await eventually(lambda: rest.ended)
    assert [each.state for each in rest.outcomes] == [State.SUCCEEDED]


async def test_a_stream_keeps_to_its_credit_and_ends_with_the_count(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def counting(peer: Peer) -> Exit | None:
        await peer.greet()
        header, _ = await peer.until("run")
        for number in range(64):
            item = frames.Item(id=header["id"], index=0, number=number, format="json")
            peer.send(item, str(number).encode())
        credit, _ = await peer.until("credit")
        for number in range(64, credit["until"]):
            item = frames.Item(id=header["id"], index=0, number=number, format="json")
            peer.send(item, str(number).encode())
        peer.answer(header)
        await peer.until("stop")
        return Exit(code=0)

    async with open_worker(bus, tmp_path, ScriptedBackend(counting)):
        await rest.bound(is_generator=True)
        await rest.run(a_request(stream=True))
        await eventually(lambda: len(rest.frames) == 64)
        await bus.send(
            STREAM_CREDIT.at(invocation_id="inv_1"), StreamCredit(invocation_id="inv_1", until=100)
        )
        await eventually(lambda: rest.ended)
    assert [each.number for each in rest.frames] == list(range(100))
    assert rest.links[0].frames == 100


async def test_a_stream_beyond_its_credit_ends_the_container(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def greedy(peer: Peer) -> Exit | None:
        await peer.greet()
        header, _ = await peer.until("run")
        for number in range(65):
            peer.send(frames.Item(id=header["id"], index=0, number=number, format="json"), b"1")
        await peer.until("never")
        return None

    async with open_worker(bus, tmp_path, ScriptedBackend(greedy)):
        await rest.bound(is_generator=True)
        await rest.run(a_request(stream=True))
        failed = await rest.change("failed")
        assert "item 64" in failed.error.message
        await eventually(lambda: rest.lost)


async def test_refuses_what_an_older_owner_of_the_shard_hands_out(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        await rest.bound()
        beats = len(rest.beats)
        await bus.send(
            SHARD_OWNED.at(shard=0), ShardOwned(shard=0, generation=5, instance="scheduler-2")
        )
        await eventually(lambda: len(rest.beats) > beats)
        await rest.run(a_request("inv_old"), generation=4)
        await rest.run(a_request("inv_new"), generation=5)
        await eventually(lambda: rest.ended)
    assert [(each.invocation_id, each.reason) for each in rest.refused] == [("inv_old", "stale")]
    assert rest.refused[0].request == a_request("inv_old")
    assert [each.invocation_id for each in rest.links] == ["inv_new"]


async def test_refuses_more_than_its_slots_and_containers_it_does_not_have(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def busy(peer: Peer) -> Exit | None:
        await peer.greet()
        await peer.until("never")
        return None

    async with open_worker(bus, tmp_path, ScriptedBackend(busy)):
        await rest.bound()
        await rest.run(a_request("inv_1"))
        await rest.run(a_request("inv_2"))
        await rest.run(a_request("inv_3"), container_id="ctr_other")
        await eventually(lambda: len(rest.refused) == 2)
    assert [(each.invocation_id, each.reason) for each in rest.refused] == [
        ("inv_2", "full"),
        ("inv_3", "unknown"),
    ]


async def test_cancel_reaches_the_runner_and_the_caller(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def obedient(peer: Peer) -> Exit | None:
        await peer.greet()
        while True:
            header, _ = await peer.receive()
            if header["type"] == "cancel":
                error = RemoteError(code="invocation.cancelled", type="Cancelled", message="")
                peer.send(frames.Result(id=header["id"], index=0, state="failed", error=error))

    async with open_worker(bus, tmp_path, ScriptedBackend(obedient)):
        await rest.bound()
        await rest.run(a_request())
        await bus.send(CANCEL_ATTEMPT.at(worker_id=WORKER), CancelInvocation(invocation_id="inv_1"))
        await eventually(lambda: rest.ended)
        assert [each.state for each in rest.outcomes] == [State.CANCELLED]
        assert rest.states()[-1] == "ready"


async def test_a_runner_that_ignores_cancel_is_killed(bus: Any, rest: Any, tmp_path: Path) -> None:
    async def deaf(peer: Peer) -> Exit | None:
        await peer.greet()
        await peer.until("never")
        return None

    async with open_worker(bus, tmp_path, ScriptedBackend(deaf), cancel_grace_s=0.01):
        await rest.bound()
        await rest.run(a_request(inputs=3))
        await bus.send(CANCEL_ATTEMPT.at(worker_id=WORKER), CancelInvocation(invocation_id="inv_1"))
        stopped = await rest.change("stopped")
        assert stopped.reason == "cancelled"
        await eventually(lambda: rest.ended)
    assert [each.state for each in rest.outcomes] == [State.CANCELLED] * 3


async def test_one_that_is_deaf_beside_another_is_killed_when_that_one_has_ended(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    go = asyncio.Event()

    async def deaf_to_one(peer: Peer) -> Exit | None:
        await peer.greet()
        await peer.until("run")
        header, body = await peer.until("run")
        await go.wait()
        peer.answer(header, body)
        await peer.until("never")
        return None

    async with open_worker(bus, tmp_path, ScriptedBackend(deaf_to_one), cancel_grace_s=0.01):
        await rest.bound(concurrency=2)
        await rest.run(a_request())
        await rest.run(a_request("inv_2"))
        await bus.send(CANCEL_ATTEMPT.at(worker_id=WORKER), CancelInvocation(invocation_id="inv_1"))
        # Nothing new goes where it sits; what runs beside it goes on to its end.
        assert (await rest.change("draining")).reason == ""
        assert not rest.outcomes
        go.set()
        assert (await rest.change("stopped")).reason == "cancelled"
        await eventually(lambda: len(rest.outcomes) == 2)
    assert [each.state for each in rest.outcomes] == [State.SUCCEEDED, State.CANCELLED]


async def test_the_same_call_handed_out_again_runs_once(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    ran = 0
    go = asyncio.Event()

    async def slow(peer: Peer) -> Exit | None:
        nonlocal ran
        await peer.greet()
        while True:
            header, body = await peer.until("run")
            ran += 1
            await go.wait()
            peer.answer(header, body)

    async with open_worker(bus, tmp_path, ScriptedBackend(slow)):
        await rest.bound(concurrency=2)
        await rest.bound(container_id="ctr_2")
        await rest.run(a_request())
        await rest.run(a_request(attempt=2), container_id="ctr_2")
        await eventually(lambda: [each.container_id for each in rest.ended] == ["ctr_2"])
        go.set()
        await eventually(lambda: len(rest.ended) == 2)
    assert ran == 1
    assert [each.attempt for each in rest.links] == [2]
