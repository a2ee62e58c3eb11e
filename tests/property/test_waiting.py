"""Waiting under any order of outcomes, losses, probes, frames and disconnects.

The promise: every input of every call gets exactly one outcome or one error, and once everything is
told to end, nothing is held any more.
"""

from __future__ import annotations

from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.invocation import InputOutcome, State
from glowplug_gateway.waiting import (
    DISCONNECT_GRACE_S,
    FRAMES_AHEAD_MAX,
    Append,
    AppendFailed,
    CancelAsked,
    Deliver,
    DeliverFrame,
    Disconnected,
    FrameHeard,
    FrameTaken,
    GiveUp,
    Joined,
    LostHeard,
    OutcomeHeard,
    Probe,
    ProbeAnswered,
    SendCancel,
    SendCredit,
    Submitted,
    Ticked,
    Waiting,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

IDS = [InvocationId(f"inv_{letter}") for letter in "ABC"]
ids = st.sampled_from(IDS)


class WaitingMachine(RuleBasedStateMachine):
    """The world around the machine, as hostile as it likes."""

    @initialize()
    def start(self) -> None:
        self.waiting = Waiting()
        self.now = 0.0
        self.missing: dict[InvocationId, set[int]] = {}
        self.attempt: dict[InvocationId, int] = {}
        self.streams: dict[InvocationId, int] = {}
        self.credit: dict[InvocationId, int] = {}
        self.probes: list[Probe] = []

    def step(self, event) -> None:
        for decision in self.waiting.step(event, self.now):
            match decision:
                case Append(invocation_id, attempt):
                    assert self.missing[invocation_id], "sent without need"
                    assert attempt > self.attempt.get(invocation_id, 0), "an attempt twice"
                    self.attempt[invocation_id] = attempt
                case Deliver():
                    missing = self.missing[decision.invocation_id]
                    indexes = {one.index for one in decision.outcomes}
                    assert len(indexes) == len(decision.outcomes)
                    assert indexes <= missing, "an input got two outcomes"
                    missing -= indexes
                    assert decision.done == (not missing)
                case GiveUp():
                    assert set(decision.missing) == self.missing[decision.invocation_id]
                    self.missing[decision.invocation_id] = set()
                case DeliverFrame(invocation_id, number):
                    assert number == self.streams[invocation_id], "items out of order"
                    assert self.missing[invocation_id], "an item after the end"
                    assert number < self.credit[invocation_id]
                    self.streams[invocation_id] += 1
                case SendCredit(invocation_id, until):
                    assert until >= self.credit[invocation_id], "credit shrank"
                    self.credit[invocation_id] = until
                case Probe():
                    self.probes.append(decision)
                case SendCancel():
                    pass

    @rule(
        invocation_id=ids,
        inputs=st.integers(1, 4),
        stream=st.booleans(),
        deadline_s=st.sampled_from([0.0, 3.0]),
    )
    def submit(self, invocation_id, inputs, stream, deadline_s):
        if not self.missing.get(invocation_id):
            count = 1 if stream else inputs
            self.missing[invocation_id] = set(range(count))
            self.streams[invocation_id] = 0
            self.credit[invocation_id] = FRAMES_AHEAD_MAX
        else:
            count, stream = len(self.missing[invocation_id]), False
        self.step(
            Submitted(
                invocation_id=invocation_id,
                workspace=WorkspaceId("default"),
                shard=0,
                indexes=tuple(range(count)),
                deadline_s=deadline_s,
                stream=stream,
            )
        )

    @rule(
        invocation_id=ids,
        indexes=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        attempt=st.integers(1, 5),
        frames=st.sampled_from([-1, 0, 1, 3]),
    )
    def outcome(self, invocation_id, indexes, attempt, frames):
        outcomes = tuple(InputOutcome(index=n, state=State.SUCCEEDED) for n in indexes)
        self.step(
            OutcomeHeard(
                invocation_id=invocation_id, attempt=attempt, outcomes=outcomes, frames=frames
            )
        )

    @rule(invocation_id=ids, skip=st.sampled_from([0, 0, 0, 0, 1, -1]), old=st.booleans())
    def frame(self, invocation_id, skip, old):
        attempt = self.attempt.get(invocation_id, 1) - (1 if old else 0)
        number = max(0, self.streams.get(invocation_id, 0) + skip)
        self.step(FrameHeard(invocation_id, attempt, number))

    @rule(invocation_id=ids, count=st.integers(1, 80))
    def many_frames(self, invocation_id, count):
        for _ in range(count):
            self.frame(invocation_id, 0, False)
            self.step(FrameTaken(invocation_id))

    @rule(invocation_id=ids)
    def taken(self, invocation_id):
        self.step(FrameTaken(invocation_id))

    @rule(
        invocation_id=ids,
        attempt=st.integers(1, 5),
        cause=st.sampled_from(["worker", "container", "refused", "start_failed"]),
    )
    def loss(self, invocation_id, attempt, cause):
        self.step(LostHeard(invocation_id=invocation_id, attempt=attempt, cause=cause))

    @rule(invocation_id=ids, full=st.booleans())
    def append_failed(self, invocation_id, full):
        attempt = self.attempt.get(invocation_id, 1)
        self.step(AppendFailed(invocation_id=invocation_id, attempt=attempt, full=full))

    @rule(data=st.data(), settled=st.booleans())
    def probe_answered(self, data, settled):
        if self.probes:
            probe = data.draw(st.sampled_from(self.probes))
            unknown = data.draw(st.sets(st.sampled_from(probe.invocation_ids)))
            self.step(
                ProbeAnswered(
                    asked=probe.invocation_ids,
                    unknown=tuple(unknown),
                    settled=settled,
                    asked_at=probe.asked_at,
                )
            )

    @rule(invocation_id=ids, event=st.sampled_from([Joined, Disconnected, CancelAsked]))
    def caller(self, invocation_id, event):
        self.step(event(invocation_id))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, DISCONNECT_GRACE_S]))
    def tick(self, seconds):
        self.now += seconds
        self.step(Ticked())

    @invariant()
    def holds_exactly_what_misses_something(self):
        self.waiting.check()
        assert {i for i, missing in self.missing.items() if missing} == {
            i for i in IDS if i in self.waiting
        }

    def teardown(self):
        """Liveness: a dispatcher that knows nothing ends every call after bounded resends."""
        for _ in range(40):
            self.now += 1.0
            self.probes.clear()
            self.step(Ticked())
            for probe in list(self.probes):
                self.now += 0.01
                self.step(
                    ProbeAnswered(
                        asked=probe.invocation_ids,
                        unknown=probe.invocation_ids,
                        settled=True,
                        asked_at=probe.asked_at,
                    )
                )
        assert len(self.waiting) == 0
        assert not any(self.missing.values())


TestWaiting = WaitingMachine.TestCase
TestWaiting.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
