"""Slots, attempts and chains under arbitrary orders: nothing twice, nothing lost, bounds kept."""

from __future__ import annotations

from typing import Any

from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InputOutcome,
    InvocationRequested,
    Outcome,
    Payload,
    RemoteError,
    RetryPolicy,
    State,
)
from glowplug_worker.attempts import LINK_BYTES_MAX, Attempt, _weight
from glowplug_worker.chains import Chain
from glowplug_worker.frames import (
    BODY_BYTES_MAX,
    FrameError,
    FrameReader,
    Hello,
    Item,
    Result,
    encode_frame,
    encode_frames,
)
from glowplug_worker.slots import Refusal, Slots
from hypothesis import given, settings
from hypothesis import strategies as st

ERROR = RemoteError(code="function.failed", type="ValueError", message="m")


def inputs(count: int) -> tuple[Input, ...]:
    payload = Payload(format=Format.JSON, data=b"1", size=1)
    return tuple(Input(index=each, args=payload) for each in range(count))


@given(
    st.integers(1, 3), st.lists(st.tuples(st.sampled_from("otrd"), st.integers(0, 9)), max_size=60)
)
def test_slots_never_hold_more_than_they_have(concurrency: int, steps: list[Any]) -> None:
    slots = Slots(concurrency=concurrency)
    held: set[str] = set()
    for what, number in steps:
        invocation = f"inv_{number}"
        if what == "o":
            slots.open(number % 3)
        elif what == "t":
            free = slots.free
            taken = slots.take(invocation)
            assert (taken in set(Refusal)) == (free == 0 or slots.draining or invocation in held)
            if not isinstance(taken, Refusal):
                held.add(invocation)
        elif what == "r":
            assert slots.release(invocation) == (invocation in held)
            held.discard(invocation)
        elif number == 0:
            slots.drain()
        slots.check()
        assert set(slots) == held


@settings(deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["ok", "bad", "aside", "cancel"]))),
    st.sampled_from([10, LINK_BYTES_MAX // 3]),
)
def test_every_input_gets_exactly_one_outcome(
    count: int, window: int, retries: int, answers: list[Any], size: int
) -> None:
    attempt = Attempt(
        "inv_1",
        inputs(count),
        attempt=1,
        timeout_s=0,
        window=window,
        retry=RetryPolicy(max_retries=retries),
    )
    written: list[InputOutcome] = []
    now = 0.0
    aside: list[int] = []

    def settle(index: int, state: State) -> None:
        data = b"x" * size
        result = Payload(format=Format.JSON, data=data, size=size)
        good = state is State.SUCCEEDED
        attempt.take_result(
            InputOutcome(
                index=index,
                state=state,
                result=result if good else None,
                error=None if good else ERROR,
            ),
            now,
        )

    def flush() -> None:
        while attempt.due_to_flush(now):
            link = attempt.take_pending()
            assert link
            assert len(link) == 1 or sum(map(_weight, link)) <= LINK_BYTES_MAX
            written.extend(link)

    tail = [(each, "ok") for _ in range(retries + 2) for each in range(count)]
    for index, what in [*answers, *tail]:
        now += 1.0
        while attempt.next_input(now) is not None:
            pass
        if what == "cancel":
            attempt.cancel(now)
        elif attempt.holds(index):
            if what == "aside":
                attempt.set_aside(index, now)
                aside.append(index)
            else:
                settle(index, State.SUCCEEDED if what == "ok" else State.FAILED)
        attempt.check()
        flush()
    for index in aside:
        settle(index, State.SUCCEEDED)
    for _ in range(count):
        now += 1.0
        while (each := attempt.next_input(now)) is not None:
            settle(each.index, State.SUCCEEDED)
    flush()
    assert attempt.done
    assert sorted(each.index for each in written) == list(range(count))


@given(st.integers(1, 8), st.data())
def test_of_racing_attempts_each_input_is_in_the_chain_once(count: int, data: Any) -> None:
    """Two workers append by compare-and-set to one chain; whatever the order, one outcome each."""
    request = InvocationRequested(
        invocation_id="inv_1",
        workspace="default",
        deployment_id="dep_1",
        inputs=inputs(count),
        reply_to="gw",
    )
    stored: list[tuple[int, Outcome]] = []
    chains = [Chain(range(count)) for _ in range(2)]
    todo = [list(range(count)) for _ in range(2)]
    while any(todo):
        who = data.draw(st.sampled_from([each for each in range(2) if todo[each]]))
        some = data.draw(st.integers(1, len(todo[who])))
        ours = tuple(InputOutcome(index=each, state=State.SUCCEEDED) for each in todo[who][:some])
        chain = chains[who]
        link = chain.compose(request, ours, container_id="ctr_1", worker_id="wrk_1")
        if (stored[-1][0] if stored else 0) == chain.last_sequence and link.outcomes:
            stored.append((len(stored) + 1, link))
            chain.wrote(len(stored), link)
            todo[who] = todo[who][some:]
        else:
            chain.read(stored)
            kept = chain.unwritten(InputOutcome(index=i, state=State.SUCCEEDED) for i in todo[who])
            todo[who] = [each.index for each in kept]
    indexes = [each.index for _, link in stored for each in link.outcomes]
    assert sorted(indexes) == list(range(count))
    assert [link.last for _, link in stored] == [False] * (len(stored) - 1) + [True]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.integers(1, 64),
    st.sampled_from([0, BODY_BYTES_MAX + 5]),
)
def test_frames_survive_any_cut(bodies: list[bytes], cut: int, extra: int) -> None:
    stream = b"".join(
        encode_frame(Item(id="inv_1", index=0, number=number), body)
        for number, body in enumerate(bodies)
    )
    large = b"y" * extra
    result = Result(id="inv_1", index=0, state="succeeded")
    stream += b"".join(encode_frames(result, large))
    step = max(cut, len(stream) // 50)
    reader, got = FrameReader(), []
    for start in range(0, len(stream), step):
        got += list(reader.feed(stream[start : start + step]))
    items = [body for header, body in got if isinstance(header, Item)]
    assert items == bodies
    assert b"".join(body for header, body in got if isinstance(header, Result)) == large


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_an_error_and_never_kept_beyond_the_bound(noise: bytes) -> None:
    reader = FrameReader()
    try:
        for piece in (encode_frame(Hello(pid=1, python="3")), noise, b"\xff" * 8):
            for header, _ in reader.feed(piece):
                assert header is not None
    except FrameError:
        return
    assert len(reader._buffer) < 2 * BODY_BYTES_MAX + 16
