"""The direct path's small machines: no slot is counted twice, no room is forgotten, every call is told of."""

from __future__ import annotations

from collections import deque
from typing import Any

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId
from glowplug_contracts.messages.link import SlotsTold
from glowplug_gateway.warm import WarmSlots
from glowplug_worker.notices import Notices
from glowplug_worker.rooms import Told
from glowplug_worker.slots import Refusal, Slots
from hypothesis import given, settings
from hypothesis import strategies as st

DEPLOYMENT = DeploymentId("dep_1")
CONTAINER = ContainerId("ctr_1")


class Room:
    container_id = CONTAINER
    deployment_id = DEPLOYMENT

    def __init__(self, concurrency: int) -> None:
        self.slots = Slots(concurrency=concurrency)
        self.slots.open(0)


class Pair:
    """A gateway and a worker with one container, and what is on its way between them."""

    def __init__(self, concurrency: int) -> None:
        self.room = Room(concurrency)
        self.told = Told()
        self.warm = WarmSlots()
        self.warm.open(1)
        self.calls: deque[int] = deque()
        self.words: deque[tuple[SlotsTold, bool]] = deque()
        self.running: list[int] = []
        self.others = 0
        self.refused = 0
        self.sent = 0
        self.tell()

    def tell(self) -> None:
        if self.told.should_hear(self.room):
            self.words.append((self.told.say(self.room), False))

    def step(self, what: str) -> None:
        if what == "send" and self.warm.take(DEPLOYMENT) is not None:
            self.sent += 1
            self.calls.append(self.sent)
        elif what == "arrive" and self.calls:
            self.arrive(self.calls.popleft())
        elif what == "hear" and self.words:
            self.warm.told(1, self.words.popleft()[0])
        elif what == "answer" and self.running:
            self.room.slots.release(f"call-{self.running.pop(0)}")
            self.words.append((self.told.say(self.room), True))
        elif (
            what == "end quietly" and self.running
        ):  # a stream: its room is not told with its answer
            self.room.slots.release(f"call-{self.running.pop(0)}")
            self.tell()
        elif what == "other comes":
            self.others += not isinstance(self.room.slots.take(f"other-{self.others}"), Refusal)
        elif what == "other goes" and self.others:
            self.others -= 1
            self.room.slots.release(f"other-{self.others}")
            self.tell()
        self.warm.check()

    def arrive(self, call: int) -> None:
        self.told.count(CONTAINER)
        if isinstance(self.room.slots.take(f"call-{call}"), Refusal):
            self.refused += 1
            self.words.append((self.told.say(self.room), True))
        else:
            self.running.append(call)
            self.tell()


STEPS = ["send", "arrive", "hear", "answer", "end quietly", "other comes", "other goes"]


@given(st.integers(1, 3), st.lists(st.sampled_from(STEPS), max_size=80))
def test_room_is_never_forgotten(concurrency: int, steps: list[str]) -> None:
    pair = Pair(concurrency)
    for what in steps:
        pair.step(what)
    while pair.calls or pair.words:
        pair.step("arrive")
        pair.step("hear")
    # All that was said is heard: if there is room, a call finds some.
    assert (pair.warm.take(DEPLOYMENT) is not None) or pair.room.slots.free == 0


@given(
    st.integers(1, 3),
    st.lists(st.sampled_from([each for each in STEPS if "other" not in each]), max_size=80),
)
def test_alone_with_its_worker_a_gateway_is_never_refused(
    concurrency: int, steps: list[str]
) -> None:
    pair = Pair(concurrency)
    for what in steps:
        pair.step(what)
    assert pair.refused == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "close", "told", "closed", "take"]),
            st.integers(1, 3),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        max_size=60,
    )
)
def test_a_slot_is_of_an_open_link_and_of_the_deployment(steps: list[Any]) -> None:
    warm, opened = WarmSlots(), set()
    for what, link, container, number in steps:
        deployment = DeploymentId(f"dep_{container % 2}")
        if what == "open" and link not in opened:
            opened.add(link)
            warm.open(link)
        elif what == "close":
            opened.discard(link)
            warm.close(link)
        elif what in {"told", "closed"}:
            slots = SlotsTold(
                container_id=ContainerId(f"ctr_{container}"),
                deployment_id=deployment,
                free=number,
                seen=number,
                closed=what == "closed",
            )
            warm.told(link, slots)
        elif (slot := warm.take(deployment)) is not None:
            assert slot.link in opened
            assert int(slot.container_id[-1]) % 2 == container % 2
        warm.check()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "take"]), st.integers(0, 2))))
def test_every_call_is_named_and_ended_once_or_counted_once(steps: list[Any]) -> None:
    notices, listened = Notices(), []
    notices.listen(lambda: listened.append(1))
    running: dict[int, list[InvocationId]] = {0: [], 1: [], 2: []}
    began: list[InvocationId] = []
    named: list[InvocationId] = []
    ended: list[InvocationId] = []
    passed = 0
    for what, number in [*steps, ("take", 0)]:
        container = ContainerId(f"ctr_{number}")
        if what == "begin":
            invocation_id = InvocationId(f"inv_{len(began)}")
            began.append(invocation_id)
            running[number].append(invocation_id)
            notices.began(0, container, invocation_id)
        elif what == "end" and running[number]:
            notices.ended(0, container, running[number].pop())
        elif what == "take":
            for notice in notices.take():
                assert notice.peak >= max(len(notice.began), min(1, notice.passed))
                assert not set(notice.ended) - set(named)
                named += notice.began
                ended += notice.ended
                passed += notice.passed
    assert listened or not began
    alive = [each for some in running.values() for each in some]
    assert len(named) == len(set(named))
    assert len(ended) == len(set(ended))
    assert len(named) + passed == len(began)
    assert set(named) - set(ended) == set(alive)
