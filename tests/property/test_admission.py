"""Admission under any order of offers, endings, reports and ticks."""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId, InvocationId, WorkspaceId
from glowplug_gateway.admission import (
    Admission,
    Admit,
    BacklogHeard,
    CallLeft,
    CallOffered,
    Refuse,
    Ticked,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

DEPLOYMENTS = [DeploymentId("dep_A"), DeploymentId("dep_B")]
WORKSPACE_MAX = 12
SHARD_MAX = 40


class AdmissionMachine(RuleBasedStateMachine):
    """A model that keeps plain sets of what is in hand."""

    @initialize()
    def start(self) -> None:
        self.admission = Admission(workspace_max=WORKSPACE_MAX, shard_max=SHARD_MAX)
        self.held: dict[InvocationId, tuple[DeploymentId, int]] = {}
        self.now = 0.0
        self.made = 0

    def own(self, deployment_id: DeploymentId) -> int:
        return sum(inputs for dep, inputs in self.held.values() if dep == deployment_id)

    @rule(
        deployment_id=st.sampled_from(DEPLOYMENTS),
        inputs=st.integers(1, 6),
        max_pending=st.integers(0, 8),
        held=st.booleans(),
    )
    def offer(self, deployment_id, inputs, max_pending, held):
        self.made += 1
        invocation_id = InvocationId(f"inv_{self.made}")
        before = self.admission.pending(deployment_id)
        in_hand = sum(n for _, n in self.held.values())
        (decision,) = self.admission.step(
            CallOffered(
                invocation_id=invocation_id,
                workspace=WorkspaceId("default"),
                deployment_id=deployment_id,
                shard=0,
                inputs=inputs,
                max_pending=max_pending,
                held=held,
            ),
            self.now,
        )
        if isinstance(decision, Admit):
            assert not max_pending or not before or before + inputs <= max_pending
            assert not in_hand or in_hand + inputs <= WORKSPACE_MAX
            if held:
                self.held[invocation_id] = (deployment_id, inputs)
        else:
            assert isinstance(decision, Refuse)
            assert 1.0 <= decision.retry_after_s <= 30.0
            assert self.admission.pending(deployment_id) == before

    @rule(data=st.data())
    def end(self, data):
        if self.held:
            ended = data.draw(st.sampled_from(sorted(self.held)))
            del self.held[ended]
            assert self.admission.step(CallLeft(ended), self.now) == ()

    @rule()
    def end_unknown(self):
        assert self.admission.step(CallLeft(InvocationId("inv_none")), self.now) == ()

    @rule(
        deployment_id=st.sampled_from(DEPLOYMENTS),
        queued=st.integers(0, 15),
        in_flight=st.integers(0, 15),
    )
    def report(self, deployment_id, queued, in_flight):
        report = BacklogHeard(
            deployment_id=deployment_id, shard=0, queued=queued, in_flight=in_flight
        )
        self.admission.step(report, self.now)
        # Right after a report, what is pending is what it says, or what is in hand here if that is more.
        expected = max(queued + in_flight, self.own(deployment_id))
        assert self.admission.pending(deployment_id) == expected

    @rule(seconds=st.sampled_from([0.05, 1.0, 31.0]))
    def tick(self, seconds):
        self.now += seconds
        self.admission.step(Ticked(), self.now)

    @invariant()
    def counts_are_right(self):
        self.admission.check()
        assert self.admission.in_hand(WorkspaceId("default")) == sum(
            n for _, n in self.held.values()
        )

    def teardown(self):
        """At rest nothing is remembered."""
        for invocation_id in list(self.held):
            self.admission.step(CallLeft(invocation_id), self.now)
        self.admission.step(Ticked(), self.now + 100.0)
        self.admission.check()
        assert len(self.admission) == 0
        assert all(self.admission.pending(dep) == 0 for dep in DEPLOYMENTS)
        assert not self.admission._demands
        assert not self.admission._shards


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
