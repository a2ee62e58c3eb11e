"""What waits for the ends of others: under any order of news, repeats and takeovers, it runs exactly when
its condition holds, is ended when it can't hold any more, and never waits for ever."""

from __future__ import annotations

import msgspec
from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import TERMINAL, State
from glowplug_scheduler import dispatch as d
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders_scheduler import a_container, a_record, beats, ended, moved, refused

ENDS = [State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.DEAD]


class World:
    """The records, one container with room for all, and owners that come and go."""

    def __init__(self, records: list[d.RecordSeen]) -> None:
        self.now = 100.0
        self.sequence = 0
        self.records: dict[str, d.RecordSeen] = {}
        self.news: list[d.Event] = []
        self.mail: list[d.Hand] = []
        self.running: list[str] = []
        self.ran: list[str] = []
        self.beat = 0
        self.machine: d.Dispatcher
        for record in records:
            self.records[record.invocation_id] = record
            self.write(record.invocation_id)
        self.take_over()

    def write(self, name: str, **changes: object) -> None:
        self.sequence += 1
        self.records[name] = msgspec.structs.replace(
            self.records[name], sequence=self.sequence, **changes
        )
        self.news.append(self.records[name])

    def take_over(self) -> None:
        self.machine = d.Dispatcher(0, 1)
        self.mail.clear()
        last = sorted(self.records.values(), key=lambda record: record.sequence)
        self.news = [*last, d.RecordsRead()]
        self.step(d.ShardTaken(1))
        self.step(moved(ContainerState.READY, "ctr_1", "dep_f", slots=100))
        self.hear_beat()

    def hear_beat(self) -> None:
        self.beat += 1
        view = a_container("ctr_1", slots=100, in_flight=tuple(self.running))
        self.step(beats(self.beat, view))

    def step(self, event: d.Event) -> None:
        for decision in self.machine.step(event, self.now):
            if isinstance(decision, d.Hand):
                self.mail.append(decision)
            elif isinstance(decision, d.WriteRecord):
                record = self.records[decision.invocation_id]
                if record.sequence == decision.sequence:
                    self.write(record.invocation_id, state=decision.state)
        self.machine.check()

    def tell(self) -> None:
        while self.news:
            self.step(self.news.pop(0))

    def run(self) -> None:
        while self.mail:
            hand = self.mail.pop(0)
            name = str(hand.invocation_id)
            record = self.records[name]
            if record.sequence != hand.sequence or record.state is State.RUNNING:
                self.step(refused("ctr_1", name, "conflict"))
                continue
            self.running.append(name)
            self.ran.append(name)
            self.write(name, state=State.RUNNING, attempt=1, container_id="ctr_1")

    def end(self, name: str, state: State) -> None:
        self.running.remove(name)
        self.write(name, state=state)
        self.step(ended("ctr_1", name))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hear_beat()
        self.step(d.Tick())


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_condition_is_kept_whatever_happens(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4), "members")
    after_if = data.draw(st.sampled_from(["succeeded", "failed", "ended"]))
    waiter, last = InvocationId("inv_w"), InvocationId("inv_z")
    records = [
        a_record(last, 0, after_count=1),
        a_record(waiter, 0, after_count=count, after_if=after_if, then=(last,)),
        *(a_record(f"inv_{n}", 0, then=(waiter,)) for n in range(count)),
    ]
    world = World(records)
    ends: dict[str, State] = {}
    for _ in range(200):
        move = data.draw(st.sampled_from(["tell", "run", "end", "time", "take over"]))
        match move:
            case "tell":
                world.tell()
            case "run":
                world.run()
            case "end" if world.running:
                name = data.draw(st.sampled_from(world.running))
                ends[name] = data.draw(st.sampled_from(ENDS))
                world.end(name, ends[name])
            case "time":
                world.pass_time(1.0)
            case "take over":
                world.take_over()
            case _:
                pass
        if all(record.state in TERMINAL for record in world.records.values()):
            break
    while not all(record.state in TERMINAL for record in world.records.values()):
        world.tell()
        world.run()
        for name in list(world.running):
            ends[name] = State.SUCCEEDED
            world.end(name, State.SUCCEEDED)
        world.pass_time(1.0)
        assert world.now < 1000, "somebody waits for ever"
    members = [ends[f"inv_{n}"] for n in range(count)]
    well = [state is State.SUCCEEDED for state in members]
    should = {"succeeded": all(well), "failed": not all(well), "ended": True}[after_if]
    assert (waiter in world.ran) == should
    assert world.ran.count(waiter) <= 1
    if not should:
        left = State.FAILED if after_if == "succeeded" else State.CANCELLED
        assert world.records[waiter].state is left
    ran_last = world.records[waiter].state is State.SUCCEEDED
    assert (last in world.ran) == ran_last
    if should and after_if == "ended":
        assert world.ran.index(waiter) > max(world.ran.index(f"inv_{n}") for n in range(count))


def test_what_was_never_accepted_whole_ends_and_says_so() -> None:
    world = World([a_record("inv_w", 0, after_count=2), a_record("inv_0", 0, then=("inv_w",))])  # type: ignore[arg-type]
    world.tell()
    world.run()
    world.end("inv_0", State.SUCCEEDED)
    world.tell()
    world.pass_time(300.0)
    assert world.records["inv_w"].state is State.ACCEPTED
    world.pass_time(301.0)
    assert world.records["inv_w"].state is State.FAILED
    assert world.ran == ["inv_0"]
