"""Submissions are written once each, and none waits for company."""

from __future__ import annotations

from glowplug_gateway.gathering import (
    ALONE_MAX,
    WAITING_MAX,
    Gathering,
    Submitted,
    Turn,
    Written,
)
from glowplug_runtime.appending import BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BATCH_MESSAGES_MIN
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule


class Gatherings(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.machine = Gathering()
        self.sizes = {}
        self.under_way = []
        self.written = []
        self.turned = []

    def perform(self, decisions):
        for decision in decisions:
            if isinstance(decision, Turn):
                self.turned += decision.tickets
            else:
                self.under_way.append(decision.tickets)
                self.written += decision.tickets

    @rule(sizes=st.lists(st.integers(0, BATCH_BYTES_MAX // 3), min_size=1, max_size=700))
    def submit(self, sizes):
        tickets = tuple((len(self.sizes) + number, size) for number, size in enumerate(sizes))
        idle = not self.under_way and len(self.written) == len(self.sizes) - len(self.turned)
        self.sizes.update(tickets)
        self.perform(self.machine.step(Submitted(tickets)))
        if idle:
            assert self.under_way
            if len(tickets) < BATCH_MESSAGES_MIN:
                assert len(self.under_way) == len(tickets)  # at once, none for another

    @rule(data=st.data())
    def end_one(self, data):
        if self.under_way:
            which = data.draw(st.integers(0, len(self.under_way) - 1))
            self.perform(self.machine.step(Written(self.under_way.pop(which))))

    @rule()
    def end_all(self):
        while self.under_way:
            self.perform(self.machine.step(Written(self.under_way.pop())))
        assert sorted(self.written + self.turned) == sorted(self.sizes)

    @invariant()
    def holds(self):
        self.machine.check()
        assert len(set(self.written)) == len(self.written)
        assert self.written == sorted(self.written)  # first come, first written
        for batch in self.under_way:
            assert len(batch) <= BATCH_MESSAGES_MAX
            size = sum(self.sizes[ticket] for ticket in batch)
            assert len(batch) == 1 or size <= BATCH_BYTES_MAX
        assert len([one for one in self.under_way if len(one) == 1]) <= ALONE_MAX + 2


TestGatherings = Gatherings.TestCase


def test_too_many_are_turned_away_together():
    machine = Gathering()
    machine.step(Submitted(tuple((n, 1) for n in range(WAITING_MAX))))
    many = tuple((WAITING_MAX + n, 1) for n in range(2_000))
    assert machine.step(Submitted(many)) == (Turn(tuple(t for t, _ in many)),)
