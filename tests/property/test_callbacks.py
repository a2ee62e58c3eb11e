"""Callbacks that are due are told, never twice at once, and never before their time."""

from __future__ import annotations

from glowplug_gateway.callbacks import AT_ONCE_MAX, Callbacks, Heard, Tell, Ticked, Told
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

TASKS = st.integers(0, 60)


class Tellings(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.machine = Callbacks()
        self.now = 1_000.0
        self.sequence = 0
        self.records = {}  # task -> (sequence, due, due_at): the truth
        self.telling = set()
        self.unnoted = {}  # task -> not before

    def step(self, event):
        for decision in self.machine.step(event, self.now):
            assert isinstance(decision, Tell)
            task = decision.invocation_id
            assert task not in self.telling
            _, due, due_at = self.records[task]
            assert due
            assert due_at <= self.now
            self.telling.add(task)

    def write(self, task, due, due_at):
        self.sequence += 1
        self.records[task] = (self.sequence, due, due_at)

    def hear(self, task):
        sequence, due, due_at = self.records[task]
        self.step(
            Heard(invocation_id=task, workspace="w", sequence=sequence, due=due, due_at=due_at)
        )

    @rule(task=TASKS, due=st.booleans(), ahead=st.sampled_from([-5.0, 0.0, 1.0, 100.0]))
    def a_record_is_written_and_heard(self, task, due, ahead):
        if task not in self.telling:  # while it is told only the teller writes
            self.write(task, due, self.now + ahead)
            self.hear(task)

    @rule(task=TASKS)
    def a_word_is_heard_again(self, task):
        if task in self.records:
            self.hear(task)

    @rule(data=st.data(), delivered=st.booleans(), heard_first=st.booleans())
    def a_try_ends(self, data, delivered, heard_first):
        if not self.telling:
            return
        task = data.draw(st.sampled_from(sorted(self.telling)))
        self.write(task, due=not delivered, due_at=self.now + 2.0)
        if heard_first:
            self.hear(task)
            assert task in self.telling
        self.telling.discard(task)
        self.step(Told(task, noted=True))
        if not heard_first:
            self.hear(task)

    @rule(data=st.data())
    def a_try_is_not_noted(self, data):
        if self.telling:
            task = data.draw(st.sampled_from(sorted(self.telling)))
            self.telling.discard(task)
            self.step(Told(task, noted=False))

    @rule(seconds=st.sampled_from([0.1, 3.0, 200.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.step(Ticked())

    @rule()
    def in_the_end_everything_due_is_told(self):
        for _ in range(200):
            waiting = [t for t, (_, due, _) in self.records.items() if due]
            if not waiting:
                break
            self.now += 300.0
            self.step(Ticked())
            assert self.telling or not waiting
            for task in sorted(self.telling):
                self.write(task, due=False, due_at=0.0)
                self.telling.discard(task)
                self.step(Told(task, noted=True))
                self.hear(task)
        assert not [t for t, (_, due, _) in self.records.items() if due]

    @invariant()
    def holds(self):
        self.machine.check()
        assert len(self.telling) <= AT_ONCE_MAX


TestTellings = Tellings.TestCase
