"""Keys, order and rates under whatever order of events, with owners of the shard that come and go.

A small world keeps the records. What may not happen is checked when a worker begins: more of a key than
its limit, one before another that was accepted earlier under the same key in order, more starts of a
queue in a period than its rate allows. At the end everything accepted must have ended.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import TERMINAL, State
from glowplug_scheduler import dispatch as d
from glowplug_scheduler.rates import Rate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.builders_scheduler import a_container, a_record, beats, ended, moved, refused

DEPLOYMENTS = ("dep_a", "dep_b", "dep_slow")
SLOTS = 2
RATE = (3, 10.0)  # longer than a takeover takes
KEYS = (("", 1), ("one", 1), ("two", 2), ("fifo", 0), ("fifo2", 0))


class Gating(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.generation = 0
        self.count = 0
        self.sequence = 0
        self.records: dict[str, d.RecordSeen] = {}
        self.order: dict[str, int] = {}
        self.news: list[d.RecordSeen | d.RecordsRead] = []
        self.mail: list[d.Hand] = []
        self.running: dict[str, str] = {}  # invocation → container
        self.zombies: dict[str, str] = {}  # cancelled, and its code still runs
        self.starts: list[tuple[float, d.Hand]] = []  # handed, and begun or still to begin
        self.beat = 0
        self.machine: d.Dispatcher
        self.take_over(heal=0)

    # -- The world ------------------------------------------------------------------------------

    def step(self, event: d.Event) -> None:
        for decision in self.machine.step(event, self.now):
            if isinstance(decision, d.Hand):
                self.mail.append(decision)
                self.start(decision)
            elif isinstance(decision, d.WriteRecord):
                record = self.records[decision.invocation_id]
                if record.sequence == decision.sequence:
                    lost = record.lost_attempts + (decision.state is State.RETRY_WAIT)
                    self.write(record.invocation_id, state=decision.state, lost_attempts=lost)
            elif isinstance(decision, d.ForwardCancel):
                pass  # it does not listen; `zombie_ends` ends it
        self.machine.check()

    def write(self, name: str, **changes: object) -> None:
        self.sequence += 1
        self.records[name] = msgspec.structs.replace(
            self.records[name], sequence=self.sequence, **changes
        )
        self.news.append(self.records[name])

    def alive(self, name: str) -> bool:
        return self.records[name].state not in TERMINAL

    def begin(self, hand: d.Hand) -> None:
        """A worker takes what it was handed."""
        name, box = str(hand.invocation_id), str(hand.container_id)
        record = self.records[name]
        inside = [i for i, c in (*self.running.items(), *self.zombies.items()) if c == box]
        if name in self.zombies or len(inside) >= SLOTS:
            self.did_not_start(hand)
            self.step(refused(box, name, "full"))
            return
        if record.sequence != hand.sequence or record.state is State.RUNNING:
            self.did_not_start(hand)
            self.step(refused(box, name, "conflict"))
            return
        self.must_be_allowed(name, record)
        self.running[name] = box
        self.write(
            name,
            state=State.RUNNING,
            attempt=record.attempt + 1,
            started_at=self.now,
            order=self.order[name],
            container_id=box,
        )

    def must_be_allowed(self, name: str, record: d.RecordSeen) -> None:
        beside = [r for r in (*self.running, *self.zombies) if self.records[r].key == record.key]
        if record.key:
            assert len(beside) < max(1, record.key_limit), f"{name} beside {beside}"
        if record.key and record.key_limit == 0:
            earlier = [
                other
                for other, known in self.records.items()
                if known.key == record.key and self.order[other] < self.order[name]
            ]
            assert not [other for other in earlier if self.alive(other)], f"{name} overtook"

    def start(self, hand: d.Hand) -> None:
        if self.records[hand.invocation_id].rate_count:
            young = [at for at, _ in self.starts if at > self.now - RATE[1] + 1e-9]
            assert len(young) < RATE[0], f"one too many at {self.now}: {young}"
            self.starts.append((self.now, hand))

    def did_not_start(self, hand: d.Hand) -> None:
        self.starts = [start for start in self.starts if start[1] is not hand]

    # -- What happens ---------------------------------------------------------------------------

    @rule(
        deployment=st.sampled_from(DEPLOYMENTS),
        key=st.sampled_from(KEYS),
        priority=st.integers(-2, 2),
    )
    def accept(self, deployment: str, key: tuple[str, int], priority: int) -> None:
        self.count += 1
        self.sequence += 1
        name = f"inv_{self.count}"
        self.order[name] = self.sequence
        slow = deployment == "dep_slow"
        self.records[name] = a_record(
            name,
            self.sequence,
            State.ACCEPTED,
            deployment,
            priority=priority,
            key=key[0],
            key_limit=key[1],
            rate_count=RATE[0] if slow else 0,
            rate_period_s=RATE[1],
        )
        self.news.append(self.records[name])

    @rule(many=st.integers(1, 10))
    def tell(self, many: int) -> None:
        for _ in range(many):
            if self.news:
                self.step(self.news.pop(0))

    @rule(many=st.integers(1, 5))
    def hear_hands(self, many: int) -> None:
        for _ in range(many):
            if self.mail:
                self.begin(self.mail.pop(0))

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        state=st.sampled_from([State.SUCCEEDED, State.FAILED, State.RETRY_WAIT]),
        pause=st.sampled_from([0.0, 0.5, 3.0]),
        told_first=st.booleans(),
    )
    def finish(self, data: st.DataObject, state: State, pause: float, told_first: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.end(name, state, pause)
        if told_first:
            self.tell(1000)

    def end(self, name: str, state: State, pause: float = 0.0) -> None:
        box = self.running.pop(name)
        due_at = self.now + pause if state is State.RETRY_WAIT else 0.0
        self.write(name, state=state, due_at=due_at)
        self.step(ended(box, name))

    @precondition(lambda self: any(map(self.alive, self.records)))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(filter(self.alive, self.records))))
        self.write(name, state=State.CANCELLED)
        if name in self.running:
            self.zombies[name] = self.running.pop(name)

    @precondition(lambda self: self.zombies)
    @rule(data=st.data())
    def zombie_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.zombies)))
        # Its worker has heard of the cancelling through the dispatcher, who heard of it first.
        self.tell(1000)
        self.step(ended(self.zombies.pop(name), name))

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hear_beat()
        self.step(d.Tick())

    def hear_beat(self) -> None:
        self.beat += 1
        inside = self.running | self.zombies
        views = [
            a_container(
                f"ctr_{name}",
                name,
                slots=SLOTS,
                in_flight=tuple(i for i, c in inside.items() if c == f"ctr_{name}"),
            )
            for name in DEPLOYMENTS
        ]
        self.step(beats(self.beat, *views))

    @rule(heal=st.integers(0, 3))
    def take_over(self, heal: int) -> None:
        """The owner dies; another one reads all records. Workers refuse what the old one handed."""
        if heal:
            return
        self.generation += 1
        self.machine = d.Dispatcher(0, 1)
        for hand in self.mail:
            self.did_not_start(hand)
        self.mail.clear()
        last = sorted(self.records.values(), key=lambda record: record.sequence)
        self.news = [*last, d.RecordsRead()]
        self.now += 2.0  # the lease must run out
        self.step(d.ShardTaken(self.generation))
        for name in DEPLOYMENTS:
            self.step(moved(ContainerState.READY, f"ctr_{name}", name, slots=SLOTS))
        self.hear_beat()

    def teardown(self) -> None:
        for _ in range(60 + 20 * self.count):
            self.tell(1000)
            self.hear_hands(1000)
            for name in list(self.zombies):
                self.step(ended(self.zombies.pop(name), name))
            for name in list(self.running):
                self.end(name, State.SUCCEEDED)
            self.pass_time(0.5)
            if not any(map(self.alive, self.records)) and not self.machine.state.items:
                break
        self.pass_time(RATE[1])
        assert not [name for name in self.records if self.alive(name)]
        assert not self.machine.state.items
        assert not self.machine.state.leaving
        assert not self.machine.state.throttled


TestGating = Gating.TestCase
TestGating.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5), st.floats(0.1, 5))
def test_no_window_holds_more_starts_than_allowed(
    gaps: list[float], count: int, period_s: float
) -> None:
    rate, now, starts = Rate(), 0.0, []
    rate.limit(count, period_s)
    for gap in gaps:
        now += gap
        free_at = rate.free_at(now)
        assert free_at >= now
        if free_at <= now:
            rate.note(now)
            starts.append(now)
        else:  # and it may start as soon as it says
            now = free_at
            assert rate.free_at(now) <= now
            rate.note(now)
            starts.append(now)
    windows = zip(starts, starts[count:], strict=False)
    assert all(later - first >= period_s - 1e-9 for first, later in windows)
    assert all(a <= b for a, b in pairwise(starts))
