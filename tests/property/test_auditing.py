"""A reader that leaves records out: whatever it leaves out, once each, everything accepted comes to its end.

And what an audit has proved for the next owner is true: below the floor, but for what is told of, nothing is
left to be done, nothing that somebody waits for, and no start that counts for a rate.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import TERMINAL, State
from glowplug_scheduler import dispatch as d
from glowplug_scheduler.auditing import AUDIT_EVERY_S, AUDIT_SOON_S, BELOW_MAX
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders_scheduler import a_container, a_record, beats, ended, moved, refused

WEEK_S = 7 * 86_400.0
RATE_S = 100.0


class World:
    """A stream with one message per subject, read by owners that may be told less than it holds."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.now = 100.0
        self.sequence = 0
        self.records: dict[str, d.RecordSeen] = {}
        self.left_out: set[tuple[str, int]] = set()
        self.floor, self.below = 1, ()
        self.news: list[d.Event] = []
        self.audited: list[d.Event] = []
        self.mail: list[d.Hand] = []
        self.running: list[str] = []
        self.beat = 0
        self.read = 0
        self.starts: list[float] = []
        self.machine: d.Dispatcher
        self.take_over()

    def heard(self, records: list[d.RecordSeen]) -> list[d.RecordSeen]:
        """Return what a reader tells of these; no write is left out more than once."""
        told = []
        for record in records:
            key = (record.invocation_id, record.sequence)
            if key not in self.left_out and self.data.draw(st.integers(0, 5), "leave out") == 0:
                self.left_out.add(key)
            else:
                told.append(record)
        return told

    def stored(self, start: int) -> list[d.RecordSeen]:
        found = sorted(self.records.values(), key=lambda record: record.sequence)
        return [record for record in found if record.sequence >= start]

    def put(self, name: str, **more: object) -> None:
        self.records[name] = a_record(name, 0, **more)
        self.write(name)

    def write(self, name: str, **changes: object) -> None:
        self.sequence += 1
        self.records[name] = msgspec.structs.replace(
            self.records[name], sequence=self.sequence, **changes
        )
        self.news += self.heard([self.records[name]])

    def take_over(self) -> None:
        self.machine = d.Dispatcher(0, 1)
        self.mail.clear()
        self.audited.clear()
        exceptions = [r for r in self.stored(1) if r.sequence in self.below]
        told = self.heard(self.stored(self.floor))
        self.read = len(told)
        self.news = [*exceptions, *told, d.RecordsRead(self.floor)]
        self.step(d.ShardTaken(1))
        self.step(moved(ContainerState.READY, "ctr_1", "dep_f", slots=100))
        self.hear_beat()

    def hear_beat(self) -> None:
        self.beat += 1
        self.step(beats(self.beat, a_container("ctr_1", slots=100, in_flight=tuple(self.running))))

    def step(self, event: d.Event) -> None:
        for decision in self.machine.step(event, self.now):
            self.perform(decision)
        self.machine.check()

    def perform(self, decision: d.Decision) -> None:
        match decision:
            case d.Hand():
                self.mail.append(decision)
            case d.WriteRecord():
                record = self.records[decision.invocation_id]
                if record.sequence == decision.sequence:
                    self.write(record.invocation_id, state=decision.state)
            case d.ScanRecords():
                told = self.heard(self.stored(decision.start))
                self.news = [*told, d.RecordsRead(decision.start)]
            case d.AuditRecords():
                told = self.heard(self.stored(decision.start))
                self.audited = [*map(d.RecordAudited, told), d.AuditEnded()]
            case d.VerifyRecord():
                self.news.append(d.RecordVerified(self.records[decision.invocation_id]))
            case d.KeepFloor():
                self.keep(decision)

    def keep(self, kept: d.KeepFloor) -> None:
        assert kept.floor > self.floor
        assert len(kept.below) <= BELOW_MAX
        self.floor, self.below = kept.floor, kept.below
        for record in self.records.values():
            told = record.sequence >= kept.floor or record.sequence in kept.below
            assert told or record.state in TERMINAL
            for waiter in record.then:
                assert told or self.records[waiter].state in TERMINAL
            if record.rate_count and record.started_at > self.now - RATE_S:
                assert told, "a start that counts would not be known"

    def tell(self) -> None:
        while self.news:
            self.step(self.news.pop(0))

    def audit(self) -> None:
        while self.audited:
            self.step(self.audited.pop(0))

    def run(self) -> None:
        while self.mail:
            hand = self.mail.pop(0)
            name = str(hand.invocation_id)
            record = self.records[name]
            if record.sequence != hand.sequence or record.state is State.RUNNING:
                self.step(refused("ctr_1", name, "conflict"))
                continue
            self.running.append(name)
            if record.rate_count:
                self.starts.append(self.now)
            self.write(
                name, state=State.RUNNING, attempt=1, container_id="ctr_1", started_at=self.now
            )

    def end(self, name: str) -> None:
        self.running.remove(name)
        self.write(name, state=State.SUCCEEDED)
        self.step(ended("ctr_1", name))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hear_beat()
        self.step(d.Tick())

    def done(self) -> bool:
        return all(record.state in TERMINAL for record in self.records.values())

    def settle(self) -> None:
        """Let time pass until all has ended, and the owner has heard of it."""
        for _ in range(300):
            if self.done() and not self.machine.state.items:
                return
            self.tell()
            self.run()
            for name in list(self.running):
                self.end(name)
            self.tell()
            self.audit()
            self.pass_time(10.0)


MOVES = ["put", "put", "tell", "run", "end", "audit", "time", "wait", "take over"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_a_reader_leaves_out_is_found_by_the_next_one(data: st.DataObject) -> None:
    world = World(data)
    for number in range(data.draw(st.integers(5, 25), "moves")):
        match data.draw(st.sampled_from(MOVES)):
            case "put":
                more = data.draw(st.sampled_from([{}, {}, {"rate_count": 3}, {"waits": True}]))
                if more.pop("waits", False):
                    waiter = InvocationId(f"inv_w{number}")
                    world.put(waiter, after_count=1)
                    world.put(f"inv_{number}", then=(waiter,))
                else:
                    world.put(f"inv_{number}", rate_period_s=RATE_S, **more)
            case "tell":
                world.tell()
            case "run":
                world.run()
            case "end" if world.running:
                world.end(data.draw(st.sampled_from(world.running)))
            case "audit":
                world.audit()
            case "time":
                world.pass_time(data.draw(st.sampled_from([0.1, 1.0, AUDIT_SOON_S])))
            case "wait":
                world.pass_time(AUDIT_EVERY_S)
            case "take over":
                world.take_over()
            case _:
                pass
    world.settle()
    assert world.done()
    assert not world.machine.state.items


def settled_world(ended_records: int) -> World:
    """A world whose reader is faultless, with so many records that ended and three that live."""
    world = World(_Never())
    for number in range(ended_records):
        world.put(f"inv_{number}", state=State.SUCCEEDED)
    world.put("inv_far", due_at=world.now + WEEK_S)
    for number in range(ended_records, 2 * ended_records):
        world.put(f"inv_{number}", state=State.SUCCEEDED)
    world.put("inv_late", due_at=world.now + WEEK_S)
    for _ in range(40):
        world.tell()
        world.audit()
        world.pass_time(1.0)
    return world


class _Never:
    def draw(self, _strategy: object, _label: str = "") -> int:
        return 1


def test_the_next_owner_reads_what_lives_however_much_has_ended() -> None:
    world = settled_world(500)
    world.take_over()
    assert world.read == 0
    world.tell()
    assert {*world.machine.state.items} == {"inv_far", "inv_late"}


def test_a_reader_that_stands_still_is_made_anew() -> None:
    world = settled_world(3)
    scans = []
    perform = world.perform

    def watch(decision: d.Decision) -> None:
        scans.extend([decision] if isinstance(decision, d.ScanRecords) else [])
        perform(decision)

    world.perform = watch
    world.put("inv_new")
    world.news.clear()  # nothing of it is told
    for _ in range(2 * int(AUDIT_EVERY_S)):
        world.audit()
        world.pass_time(1.0)
    assert len(scans) == 1
    world.tell()
    assert "inv_new" in world.machine.state.items
