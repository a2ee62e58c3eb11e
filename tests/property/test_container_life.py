"""The container machine under arbitrary events: its tables hold, ends are final, kills come."""

from __future__ import annotations

from typing import Any

from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_worker import container as life
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

ERROR = RemoteError(code="function.start_failed", type="E", message="m")
S = ContainerState


def test_every_state_and_event_is_decided_or_impossible() -> None:
    pairs = {(state, event) for state in S for event in life.Event.__args__}
    assert set(life.TRANSITIONS) | life.IMPOSSIBLE == pairs
    assert not set(life.TRANSITIONS) & life.IMPOSSIBLE


def test_every_state_can_be_reached() -> None:
    reached, todo = {S.BOUND}, [S.BOUND]
    while todo:
        at = todo.pop()
        for (state, _), targets in life.TRANSITIONS.items():
            new = targets - reached if state is at else frozenset()
            reached |= new
            todo += new
    assert reached == set(S)


class Lives(RuleBasedStateMachine):
    """A shell that feeds anything possible, and remembers what it was told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.life = life.ContainerLife(processes=2, concurrency=3, expires_at=5000.0)
        self.ends = 0
        self.kills = 0
        self.in_flight = False

    def feed(self, event: Any) -> None:
        if (self.life.state, type(event)) in life.IMPOSSIBLE:
            return
        was_over = self.life.ended
        decisions = self.life.step(event, self.now)
        assert not (was_over and decisions)
        for decision in decisions:
            if isinstance(decision, life.Announce) and decision.state in life.ENDS:
                self.ends += 1
                assert decision.reason
                assert (decision.error is not None) == (decision.state is S.FAILED)
            if isinstance(decision, life.Kill):
                self.kills += 1
            if isinstance(decision, life.Drain):
                assert self.life.slots == 0

    @rule()
    def bound(self) -> None:
        self.feed(life.Bound())

    @rule()
    def pulled(self) -> None:
        self.feed(life.Pulled())

    @rule(process=st.integers(0, 1))
    def ready(self, process: int) -> None:
        self.feed(life.RunnerReady(process=process))

    @rule()
    def start_failed(self) -> None:
        self.feed(life.StartFailed(error=ERROR))

    @rule(process=st.integers(0, 1), violation=st.sampled_from(["", "", "nonsense"]))
    def gone(self, process: int, violation: str) -> None:
        self.feed(life.RunnerGone(process=process, violation=violation))

    @rule(code=st.integers(0, 255))
    def exited(self, code: int) -> None:
        self.feed(life.Exited(code=code, busy=self.in_flight))

    @rule(grace_s=st.sampled_from([0.0, 1.0, 30.0]))
    def stop(self, grace_s: float) -> None:
        self.feed(life.StopAsked(grace_s=grace_s, reason="idle", busy=self.in_flight))

    @rule(busy=st.booleans())
    def load(self, busy: bool) -> None:
        self.in_flight = busy
        if not busy:
            self.feed(life.Emptied())

    @rule()
    def overran(self) -> None:
        self.feed(life.Overran())

    @rule()
    def overgrown(self) -> None:
        self.feed(life.Overgrown(limit_bytes=1, peak_bytes=2))

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0, 6000.0]))
    def passed(self, seconds: float) -> None:
        self.now += seconds
        self.feed(life.Passed(busy=self.in_flight))

    @precondition(lambda self: self.life.state is S.DRAINING)
    @rule()
    def is_killed_in_the_end(self) -> None:
        before = self.kills
        self.now += 31.0
        self.feed(life.Passed(busy=True))
        assert self.kills > before

    @invariant()
    def holds(self) -> None:
        self.life.check()
        assert self.ends == int(self.life.ended)
        assert self.life.slots in (0, 3, 6)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
