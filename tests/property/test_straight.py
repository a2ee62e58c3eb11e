"""What goes straight: nothing that waits is overtaken, no slot that was lent is lost, only what may begin begins."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId
from glowplug_contracts.messages.invocation import Format, Input, Payload, State
from glowplug_contracts.messages.link import SlotsTold
from glowplug_contracts.messages.record import InvocationRecord, KeyLimit, RateLimit
from glowplug_gateway import line as line_module
from glowplug_gateway.at_once import STRAIGHT_BYTES_MAX, claimed, may_go_straight, unclaimed
from glowplug_gateway.line import Line
from glowplug_gateway.warm import WarmSlots
from hypothesis import given
from hypothesis import strategies as st


def a_record(name: str = "inv_1", deployment: str = "dep_1", **changes: Any) -> InvocationRecord:
    record = InvocationRecord(
        invocation_id=InvocationId(name),
        workspace="ws",
        deployment_id=DeploymentId(deployment),
        input=Input(args=Payload(format=Format.JSON, data=b"[]", size=2)),
    )
    return msgspec.structs.replace(record, **changes)


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "hear"]), st.integers(0, 9))))
def test_a_deployment_waits_as_long_as_one_of_its_own_does(steps: list[Any]) -> None:
    line, waiting = Line(), set()
    for what, number in steps:
        if what == "join":
            line.join(a_record(f"inv_{number}", f"dep_{number % 3}"))
            waiting.add(number)
        else:
            line.leave(InvocationId(f"inv_{number}"))
            waiting.discard(number)
        line.check()
        for deployment in range(3):
            waits = any(each % 3 == deployment for each in waiting)
            assert line.waits(DeploymentId(f"dep_{deployment}")) == waits


def test_a_line_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "LINE_MAX", 3)
    line = Line()
    for number in range(10):
        line.join(a_record(f"inv_{number}", f"dep_{number}"))
        line.check()
    assert [line.waits(DeploymentId(f"dep_{n}")) for n in (0, 6, 7, 9)] == [
        False,
        False,
        True,
        True,
    ]


@given(
    st.integers(1, 3),
    st.lists(st.sampled_from(["lend", "back", "send", "arrive", "end", "hear"]), max_size=80),
)
def test_no_slot_that_was_lent_is_lost_or_lent_twice(concurrency: int, steps: list[str]) -> None:
    warm, deployment, container = WarmSlots(), DeploymentId("dep_1"), ContainerId("ctr_1")
    warm.open(1)
    lent: list[Any] = []
    seen = running = on_its_way = 0
    words: list[SlotsTold] = []

    def tell() -> None:
        free = concurrency - running
        words.append(
            SlotsTold(container_id=container, deployment_id=deployment, free=free, seen=seen)
        )

    tell()
    for what in [*steps, "hear"]:
        if what == "lend" and (slot := warm.take(deployment)) is not None:
            lent.append(slot)
        elif what == "back" and lent:
            warm.give_back(lent.pop())
        elif what == "send" and lent:
            lent.pop()
            on_its_way += 1
        elif what == "arrive" and on_its_way:
            on_its_way, running, seen = on_its_way - 1, running + 1, seen + 1
        elif what == "end" and running:
            running -= 1
            tell()
        elif what == "hear" and words:
            warm.told(1, words.pop(0))
        warm.check()
        assert len(lent) + on_its_way + running <= concurrency
    while on_its_way or running:  # all arrives and ends, and is told
        running, seen, on_its_way = running + on_its_way, seen + on_its_way, 0
        running -= 1
        tell()
    for word in words:
        warm.told(1, word)
    room = 0
    while warm.take(deployment) is not None:
        room += 1
    assert room == concurrency - len(lent)


def test_what_is_given_back_to_a_link_that_is_gone_is_nothing() -> None:
    warm = WarmSlots()
    told = SlotsTold(container_id=ContainerId("ctr_1"), deployment_id=DeploymentId("dep_1"), free=1)
    warm.open(1)
    warm.told(1, told)
    slot = warm.take(told.deployment_id)
    assert slot is not None
    warm.close(1)
    warm.give_back(slot)
    warm.open(2)
    warm.told(2, told)
    assert warm.take(told.deployment_id) is not None
    warm.give_back(slot)  # of the first link: says nothing about the second's
    warm.check()
    assert warm.take(told.deployment_id) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": 1},
        {"priority": -1},
        {"due_at": 5.0},
        {"key": KeyLimit(key="k")},
        {"rate": RateLimit(count=1)},
        {"after": (InvocationId("inv_0"),)},
        {"then": (InvocationId("inv_2"),)},
        {"pass_as": "value"},
        {"attempt": 1},
        {"state": State.RETRY_WAIT},
        {"input": Input(args=Payload(format=Format.JSON, blob="0" * 64, size=9))},
        {"headers": {"a": "x" * STRAIGHT_BYTES_MAX}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_something_else_decides_about_waits_for_the_dispatcher(changes: Any) -> None:
    assert may_go_straight(a_record(expires_at=9.0, timeout_s=3.0, callback_url="https://x"))
    assert not may_go_straight(a_record(**changes))


def test_what_is_put_back_is_what_was_accepted() -> None:
    record = a_record(expires_at=9.0, tags={"a": "b"}, idempotency_key="k")
    running = claimed(record, WorkerId("w1"), ContainerId("ctr_1"), 5.0)
    assert (running.state, running.attempt, running.started_at) == (State.RUNNING, 1, 5.0)
    assert unclaimed(running) == record
