"""The event router under any order of events, answers, ticks, redeploys and changes of owner.

The model is the shell and the broker: what is stored survives a change of owner, what is on its way may be
done or lost. Whatever happened, each event is in exactly one invocation per trigger that wants it.
"""

from __future__ import annotations

from glowplug_contracts.messages.event import RouterPosition, TriggerCursor
from glowplug_contracts.triggered import BATCH_BYTES_MAX
from glowplug_scheduler.triggers import (
    CursorWritten,
    EventRead,
    Made,
    Make,
    Router,
    Tick,
    TriggerGone,
    TriggerLive,
    WriteCursor,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.builders_events import a_trigger, stored
from tests.support.builders_scale import WORKSPACE

TYPES = ("com.example.a", "com.example.b", "org.other")
PATTERNS = {"singly": "com.example.*", "pairs": "com.example.a", "windows": "com.**"}
SHAPES = {"singly": (0, 0.0), "pairs": (2, 0.0), "windows": (5, 3.0)}


class Routing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stream: list = []
        self.records: dict[str, tuple] = {}  # id -> (trigger, versions, event ids)
        self.position = RouterPosition()
        self.cursors: dict[str, TriggerCursor] = {}
        self.live: dict[str, object] = {}
        self.since: dict[str, int] = {}
        self.takeovers = 0

    @initialize()
    def begin(self) -> None:
        self.take_over()

    # -- the shell --------------------------------------------------------------------------

    def take_over(self) -> None:
        self.machine = Router(self.position)
        self.makes: list[Make] = []
        self.cuts: list[WriteCursor] = []
        for name, deployment in self.live.items():
            after = self.since[name]
            cursor = self.cursors.get(name, TriggerCursor())
            if not deployment.spec.trigger.batch:
                after = max(after, self.position.sequence)
            self.do(self.machine.step(TriggerLive(deployment, after, cursor), self.now))

    def do(self, decisions) -> None:
        for decision in decisions:
            if isinstance(decision, Make):
                self.makes.append(decision)
            else:
                self.cuts.append(decision)

    def step(self, event) -> None:
        self.do(self.machine.step(event, self.now))

    def store(self, make: Make) -> None:
        name = make.deployment.spec.name
        ids = tuple(each.event.id for each in make.events)
        self.records.setdefault(make.invocation_id, (name, ids))

    # -- what happens -----------------------------------------------------------------------

    @rule(kind=st.sampled_from(TYPES), size=st.sampled_from([10, 10, 10, 100_000]))
    def publish(self, kind, size) -> None:
        number = len(self.stream) + 1
        self.stream.append(stored(str(number), type=kind, data=b'"' + b"x" * size + b'"'))

    @precondition(lambda self: self.machine.read < len(self.stream) and not self.machine.full)
    @rule()
    def feed(self) -> None:
        at = self.machine.read
        self.step(EventRead(self.stream[at], at + 1, more=at + 1 < len(self.stream)))

    @precondition(lambda self: self.machine.read > 0)
    @rule(back=st.integers(0, 3))
    def feed_again(self, back) -> None:
        at = max(0, self.machine.read - 1 - back)
        self.step(EventRead(self.stream[at], at + 1))

    @precondition(lambda self: self.makes)
    @rule(data=st.data())
    def make(self, data) -> None:
        make = self.makes.pop(data.draw(st.integers(0, len(self.makes) - 1)))
        self.store(make)
        self.step(Made(make.invocation_id))

    @precondition(lambda self: self.cuts)
    @rule(data=st.data())
    def cut(self, data) -> None:
        cut = self.cuts.pop(data.draw(st.integers(0, len(self.cuts) - 1)))
        self.cursors[cut.name] = cut.cursor
        self.step(CursorWritten(cut.workspace, cut.name, cut.cursor))

    @rule()
    def store_position(self) -> None:
        self.position = self.machine.position()

    @rule(seconds=st.sampled_from([0.1, 2.0, 5.0]))
    def tick(self, seconds) -> None:
        self.now += seconds
        self.step(Tick())

    @rule(name=st.sampled_from(sorted(SHAPES)))
    def deploy(self, name) -> None:
        """A version goes live at the end of what was read, as at its word in the stream."""
        batch, window_s = SHAPES[name]
        known = self.live.get(name)
        version = known.version + 1 if known else 1
        deployment = a_trigger(
            name, PATTERNS[name], version=version, batch=batch, window_s=window_s
        )
        read = self.machine.reached
        if known is None:
            self.since[name] = read
            if batch:
                self.cursors[name] = TriggerCursor(since=read, until=read)
        self.live[name] = deployment
        cursor = self.cursors.get(name, TriggerCursor())
        self.step(TriggerLive(deployment, read, cursor))

    @rule(data=st.data())
    def change_owner(self, data) -> None:
        """What was on its way is done or lost, each by itself; answers reach nobody."""
        self.takeovers += 1
        for make in self.makes:
            if data.draw(st.booleans()):
                self.store(make)
        for cut in self.cuts:
            if data.draw(st.booleans()):
                self.cursors[cut.name] = cut.cursor
        self.take_over()

    # -- what must hold ---------------------------------------------------------------------

    @invariant()
    def the_machine_is_sound(self) -> None:
        self.machine.check()

    @invariant()
    def the_position_never_falls(self) -> None:
        now = self.machine.position()
        assert now.sequence >= self.position.sequence
        assert now.oldest >= self.position.oldest

    @invariant()
    def no_batch_is_too_large(self) -> None:
        for make in self.makes:
            batch = make.deployment.spec.trigger.batch
            assert len(make.events) <= max(1, batch)
            total = sum(len(each.event.data) for each in make.events)
            assert len(make.events) == 1 or total <= BATCH_BYTES_MAX

    def teardown(self) -> None:
        """Let everything come to rest: then each event is where it belongs, once."""
        for _ in range(10 * len(self.stream) + 10):
            self.now += 10.0
            while self.machine.read < len(self.stream) and not self.machine.full:
                self.feed()
            self.step(Tick())
            while self.cuts:
                cut = self.cuts.pop(0)
                self.cursors[cut.name] = cut.cursor
                self.step(CursorWritten(cut.workspace, cut.name, cut.cursor))
            while self.makes:
                make = self.makes.pop(0)
                self.store(make)
                self.step(Made(make.invocation_id))
        assert self.machine.read == len(self.stream)
        assert self.machine.position() == RouterPosition(
            sequence=len(self.stream), oldest=len(self.stream) + 1
        )
        for name in self.live:
            got = sorted(
                int(one) for owner, ids in self.records.values() if owner == name for one in ids
            )
            wanted = [
                number
                for number, one in enumerate(self.stream, 1)
                if number > self.since[name] and wants(name, one.event.type)
            ]
            assert got == wanted, name


def wants(name: str, kind: str) -> bool:
    return {
        "singly": kind.startswith("com.example."),
        "pairs": kind == "com.example.a",
        "windows": kind.startswith("com."),
    }[name]


Routing.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRouting = Routing.TestCase


def test_what_a_lost_owner_had_read_goes_to_a_version_deployed_before_it_is_read_again() -> None:
    machine = Router(RouterPosition(sequence=1, oldest=1))
    machine.step(TriggerLive(a_trigger(batch=5), 0), 0.0)
    machine.step(TriggerLive(a_trigger(version=2, batch=5), machine.reached), 0.0)
    (cut,) = machine.step(EventRead(stored("1"), 1), 0.0)
    assert (cut.cursor.since, cut.cursor.until) == (0, 1)


def test_a_deleted_trigger_gets_nothing_more() -> None:
    machine = Router(RouterPosition())
    machine.step(TriggerLive(a_trigger(), 0), 0.0)
    assert len(machine.step(EventRead(stored("1"), 1), 0.0)) == 1
    machine.step(TriggerGone(WORKSPACE, "t"), 0.0)
    assert machine.step(EventRead(stored("2"), 2), 0.0) == []


def test_what_a_batch_has_is_finished_when_its_trigger_becomes_another() -> None:
    machine = Router(RouterPosition())
    machine.step(TriggerLive(a_trigger(batch=10, window_s=60.0), 0), 0.0)
    machine.step(EventRead(stored("1"), 1), 0.0)
    (cut,) = machine.step(TriggerGone(WORKSPACE, "t", finish=True), 0.0)
    assert not machine.idle
    (make,) = machine.step(CursorWritten(WORKSPACE, "t", cut.cursor), 0.0)
    assert [each.event.id for each in make.events] == ["1"]
    machine.step(Made(make.invocation_id), 0.0)
    machine.step(Tick(), 0.0)
    assert machine.idle
    assert machine.names() == set()
    assert machine.step(EventRead(stored("2"), 2), 0.0) == []
