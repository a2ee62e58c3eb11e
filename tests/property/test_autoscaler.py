"""The autoscaler under any order of deployments, backlogs, failed starts, silence and takeovers."""

from __future__ import annotations

from glowplug_autoscaler.decide import Autoscaler, CaughtUp, DeploymentGone, Ticked
from glowplug_autoscaler.signals import Peak
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.container import ContainerState
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.builders_scale import a_backlog, a_beat, a_change, a_deployment, a_view

NAMES = ["f", "g"]


class Autoscaling(RuleBasedStateMachine):
    """Placement's view beside the machine: it follows the decisions and nothing else."""

    @initialize()
    def start(self):
        self.now = 0.0
        self.generation = 1
        self.machine = Autoscaler(1)
        self.machine.step(CaughtUp(), 0)
        self.heard: dict[str, object] = {}  # placement's: the last decision per deployment
        self.deployed: dict[str, object] = {}
        self.containers = 0

    def step(self, event):
        for decision in self.machine.step(event, self.now):
            last = self.heard.get(decision.deployment_id)
            assert decision.previous == (last.target if last else 0), "a change was not said"
            again = decision.reason in {"takeover", "reaffirmed"}
            told = decision.failing != (last.failing if last else None)
            assert again or told or decision.target != decision.previous
            self.heard[decision.deployment_id] = decision
        self.machine.check()

    @rule(
        name=st.sampled_from(NAMES),
        minimum=st.integers(0, 2),
        maximum=st.integers(1, 4),
        buffer=st.integers(0, 2),
        per=st.integers(1, 3),
        keep_warm_s=st.sampled_from([-1.0, 0.0, 1.0, 30.0]),
        latest=st.booleans(),
        deleted=st.booleans(),
    )
    def deploy(self, name, minimum, maximum, buffer, per, keep_warm_s, latest, deleted):
        deployment = a_deployment(
            name,
            minimum=minimum,
            maximum=maximum,
            buffer=buffer,
            tasks_per_container=per,
            keep_warm_s=keep_warm_s,
            latest=latest,
            deleted=deleted,
        )
        self.deployed[name] = deployment
        self.step(deployment)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name):
        self.deployed.pop(name, None)
        self.step(DeploymentGone(DeploymentId(f"dep_{name}")))

    @rule(name=st.sampled_from(NAMES), queued=st.integers(0, 9), in_flight=st.integers(0, 9))
    def hear_backlog(self, name, queued, in_flight):
        self.step(a_backlog(name, queued, in_flight))
        entry = self.machine.entries.get(DeploymentId(f"dep_{name}"))
        history = entry.history if entry else None
        failing = history and (history.failures or history.crashes > 1)
        if entry and entry.deployment and not failing and not entry.policy.deleted:
            per = entry.policy.tasks_per_container
            need = -(-(queued + in_flight) // per)
            buffer = entry.policy.buffer if need else 0
            assert entry.target >= min(need + buffer, entry.policy.maximum), "work waits for a tick"
            if entry.policy.keep_warm_s == 0:
                kept = max(need + buffer, entry.policy.minimum)
                assert entry.target <= kept, "more than inputs and buffer take"

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(list(ContainerState)))
    def hear_container(self, name, state):
        self.containers += 1
        reason = "start_failed" if state is ContainerState.FAILED else ""
        self.step(a_change(state, f"c{self.containers}", name, reason=reason))

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 9))
    def hear_crash(self, name, number):
        """A container that was ready crashes at once."""
        container = f"x{self.containers}.{number}"
        self.containers += 1
        self.step(a_change(ContainerState.STARTING, container, name))
        self.step(a_change(ContainerState.READY, container, name))
        self.step(a_change(ContainerState.FAILED, container, name, reason="crashed"))

    @rule(name=st.sampled_from(NAMES))
    def hear_one_that_lasts(self, name):
        """A container gets ready and lives; whatever failed before is over, and that is said."""
        self.containers += 1
        container = f"l{self.containers}"
        for state in (ContainerState.STARTING, ContainerState.READY):
            self.step(a_change(state, container, name))
        self.now += 10.0
        self.step(a_change(ContainerState.STOPPED, container, name))
        heard = self.heard.get(DeploymentId(f"dep_{name}"))
        assert heard is None or heard.failing is None

    @rule(name=st.sampled_from(NAMES), running=st.integers(0, 3))
    def hear_beat(self, name, running):
        views = [a_view(f"b{n}", name, in_flight=(f"inv_{n}",)) for n in range(running)]
        self.step(a_beat(*views))

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 61.0]))
    def wait(self, seconds):
        self.now += seconds
        self.step(Ticked())

    @rule()
    def another_leader_takes_over(self):
        self.generation += 1
        self.machine = Autoscaler(self.generation)
        for deployment in self.deployed.values():
            assert self.machine.step(deployment, self.now) == ()
        for decision in self.heard.values():
            assert self.machine.step(decision, self.now) == ()
        self.step(CaughtUp())

    @rule()
    def rest(self):
        """With nothing said any more every target reaches what the policy keeps."""
        for _ in range(4):
            self.now += 70.0
            self.step(Ticked())
        for name, deployment in self.deployed.items():
            entry = self.machine.entries[DeploymentId(f"dep_{name}")]
            if deployment.state == "deleted":
                assert entry.target == 0
            elif entry.policy.keep_warm_s >= 0:
                assert entry.target == entry.policy.minimum
        for deployment_id, decision in self.heard.items():
            if deployment_id.removeprefix("dep_") not in self.deployed:
                assert decision.target == 0

    @invariant()
    def placement_follows_the_machine(self):
        for deployment_id, entry in self.machine.entries.items():
            last = self.heard.get(deployment_id)
            assert entry.target == (last.target if last else 0)
            told = last.failing if last else None
            history = entry.history
            if not self.machine.caught_up or entry.policy is None:
                continue
            in_a_row = history.failures or (history.crashes if history.crashes > 1 else 0)
            in_a_row = 0 if entry.policy.deleted else in_a_row
            assert (told.in_a_row if told else 0) == in_a_row, "a failure was not told"


Autoscaling.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAutoscaling = Autoscaling.TestCase


@given(
    st.lists(st.tuples(st.integers(0, 6), st.floats(0.1, 9)), max_size=30),
    st.sampled_from([0.0, 1.0, 5.0, 20.0]),
)
@settings(deadline=None)
def test_the_peak_equals_the_highest_need_of_the_window(needs, window_s):
    """Compared with the plain definition over the whole history."""
    peak, now, history = Peak(window_s=window_s), 0.0, [(0, 0.0)]
    for need, pause in needs:
        peak.observe(need, now)
        history.append((need, now))
        now += pause
        until = [*(at for _, at in history[1:]), float("inf")]
        expected = max(
            n for (n, _), end in zip(history, until, strict=True) if now < end + window_s
        )
        assert peak.highest(now) == expected
