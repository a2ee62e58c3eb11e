"""Sessions under any order of events: the ends are final, and no loss goes unnoticed."""

from __future__ import annotations

from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import ContainerKind
from glowplug_contracts.messages.sandbox import SandboxState
from glowplug_sandbox.session import (
    ContainerEnded,
    ContainerLost,
    ContainerReady,
    StartTimedOut,
    Terminate,
    Used,
    check,
    is_live,
    step,
)
from glowplug_sandbox.tending import Apply, Forget, SessionGone, SessionSeen, Tender, Ticked
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.builders_sandbox import CONTAINER, KEY, a_session
from tests.support.builders_scale import a_beat, a_view

WORKERS = st.sampled_from(["w1", "w2"]).map(WorkerId)
EVENTS = st.one_of(
    WORKERS.map(ContainerReady),
    st.builds(ContainerEnded, failed=st.booleans(), reason=st.sampled_from(["", "crashed"])),
    st.just(ContainerLost("gone")),
    st.just(StartTimedOut(5.0, {"w1": "cpu"})),
    st.just(Used()),
    st.just(Terminate("asked")),
)


@given(st.lists(EVENTS, max_size=20))
def test_a_session_only_ever_moves_towards_its_end(events):
    record, order = a_session(), list(SandboxState)
    for now, event in enumerate(events):
        after = step(record, event, float(now))
        check(after)
        assert step(after, event, float(now)) == after, "an event said twice is said once"
        assert order.index(after.state) >= order.index(record.state) or not is_live(after)
        assert is_live(record) or after is record
        if record.worker_id:
            assert after.worker_id == record.worker_id
        record = after


class Tended(RuleBasedStateMachine):
    """One session with its true container, a store, and the tender beside them."""

    @initialize(ttl_s=st.sampled_from([-1.0, 5.0, 50.0]))
    def start(self, ttl_s):
        self.now, self.revision, self.busy = 0.0, 1, False
        self.record = a_session(ttl_s=ttl_s)
        self.container_on: str | None = None
        self.tender = Tender(start_s=20.0)
        self.used_at = 0.0
        self.see()

    def see(self):
        if self.record is None:
            self.tender.step(SessionGone(KEY), self.now)
        else:
            self.tender.step(SessionSeen(KEY, self.record, self.revision), self.now)

    def write(self, after):
        if after != self.record:
            self.record, self.revision = after, self.revision + 1
            self.see()

    def perform(self, decisions):
        for decision in decisions:
            if isinstance(decision, Forget) and self.record is not None:
                assert not is_live(self.record)
                if decision.revision == self.revision:
                    self.record = None
                    self.see()
            elif isinstance(decision, Apply) and self.record is not None:
                if decision.event == Terminate("idle"):
                    assert not self.busy
                    assert 0 <= self.record.spec.ttl_s < self.now - self.used_at
                self.write(step(self.record, decision.event, self.now))

    @rule(worker=WORKERS)
    def container_starts(self, worker):
        if self.record is not None and is_live(self.record) and self.container_on is None:
            self.container_on, self.used_at = worker, self.now

    @rule()
    def container_vanishes(self):
        self.container_on, self.busy = None, False

    @rule(busy=st.booleans())
    def use(self, busy):
        if self.record is not None and self.record.state is SandboxState.RUNNING:
            self.busy = busy and self.container_on is not None
            self.used_at = self.now
            self.write(step(self.record, Used(), self.now))

    @rule(pause_s=st.sampled_from([1.0, 3.0]), times=st.integers(1, 8))
    def time_passes_with_beats(self, pause_s, times):
        for _ in range(times):
            self.now += pause_s
            for worker in ("w1", "w2"):
                views = []
                if self.container_on == worker:
                    running = ("exe_1",) if self.busy else ()
                    views = [a_view(CONTAINER, "-", in_flight=running, kind=ContainerKind.SANDBOX)]
                    self.used_at = self.now if self.busy else self.used_at
                self.perform(self.tender.step(a_beat(*views, worker=worker), self.now))
            self.perform(self.tender.step(Ticked(), self.now))

    @rule()
    def another_leader(self):
        self.tender = Tender(start_s=20.0)
        self.see()

    @rule()
    def settle(self):
        """After three beats the session knows whether its container lives."""
        self.time_passes_with_beats(1.0, 3)
        running = self.record is not None and self.record.state is SandboxState.RUNNING
        assert not running or self.container_on == self.record.worker_id

    @invariant()
    def invariants_hold(self):
        if getattr(self, "record", None) is not None:
            check(self.record)


Tended.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestTended = Tended.TestCase
