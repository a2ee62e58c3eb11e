"""Which target follows from what is heard."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_autoscaler.decide import (
    BACKLOG_KEPT_S,
    REAFFIRM_S,
    UNKNOWN_KEPT_S,
    Autoscaler,
    CaughtUp,
    DeploymentGone,
    Ticked,
)
from glowplug_autoscaler.plan import History, Observed, decide, needed
from glowplug_autoscaler.policy import Policy, policy_of
from glowplug_autoscaler.signals import Peak
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.scale import Failing, ScaleDecided

from tests.support.builders_scale import a_backlog, a_beat, a_change, a_deployment, a_view

F = DeploymentId("dep_f")
GENERATION = 7


class Reign:
    """A machine with one deployment, and the targets it decided as (target, reason)."""

    def __init__(self, deployment=None, *, restored: ScaleDecided | None = None) -> None:
        self.machine = Autoscaler(GENERATION)
        self.said: list[ScaleDecided] = []
        if deployment is not None:
            self.step(deployment, 0)
        if restored is not None:
            self.step(restored, 0)
        self.step(CaughtUp(), 0)

    def step(self, event, now):
        decisions = list(self.machine.step(event, now))
        self.machine.check()
        self.said += decisions
        return [(d.target, d.reason) for d in decisions]

    def tick(self, now):
        return self.step(Ticked(), now)

    @property
    def target(self) -> int:
        return self.machine.entries[F].target


def decided(target: int, generation: int = GENERATION - 1) -> ScaleDecided:
    return ScaleDecided(
        deployment_id=F, target=target, previous=0, reason="backlog", generation=generation
    )


@pytest.mark.parametrize(
    ("queued", "in_flight", "per", "expected"),
    [(0, 0, 1, 0), (1, 0, 1, 1), (3, 2, 1, 5), (5, 0, 2, 3), (4, 0, 2, 2), (99, 99, 1, 10)],
)
def test_need_is_the_work_divided_by_what_one_container_takes(queued, in_flight, per, expected):
    policy = Policy(maximum=10, tasks_per_container=per)
    assert needed(policy, Observed(queued=queued, in_flight=in_flight)) == expected


@pytest.mark.parametrize(
    ("queued", "in_flight", "expected"), [(0, 0, 0), (1, 0, 3), (0, 1, 3), (3, 2, 4), (99, 0, 5)]
)
def test_a_buffer_counts_while_inputs_wait_or_run(queued, in_flight, expected):
    policy = Policy(maximum=5, buffer=2, tasks_per_container=3)
    assert needed(policy, Observed(queued=queued, in_flight=in_flight)) == expected


def test_a_buffer_goes_with_the_rest_and_a_minimum_stays():
    reign = Reign(a_deployment(minimum=1, maximum=9, buffer=2, keep_warm_s=10))
    assert reign.target == 1
    assert reign.step(a_backlog(in_flight=1), 1) == [(3, "backlog")]
    assert reign.step(a_backlog(in_flight=4), 2) == [(6, "backlog")]
    assert reign.step(a_backlog(), 3) == []
    assert reign.tick(13) == [(1, "idle")]


def test_a_large_buffer_needs_no_steps():
    assert Reign(a_deployment(maximum=50, buffer=30)).step(a_backlog(queued=1), 1) == [
        (31, "backlog")
    ]


def test_a_superseded_version_has_no_buffer():
    reign = Reign(a_deployment(maximum=9, buffer=2, latest=False))
    assert reign.step(a_backlog(queued=1), 1) == [(1, "backlog")]


def test_decide_is_a_function_of_its_arguments():
    history = History(peak=Peak(window_s=10))
    history.peak.observe(2, 0)
    policy = Policy(maximum=4)
    assert decide(policy, Observed(), history, 5) == decide(policy, Observed(), history, 5)


def test_the_first_message_of_a_deployment_at_zero_decides_at_once():
    reign = Reign(a_deployment())
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert reign.step(a_backlog(queued=1, trace=trace), 1) == [(1, "backlog")]
    assert reign.said[0] == ScaleDecided(
        deployment_id=F,
        target=1,
        previous=0,
        reason="backlog",
        generation=GENERATION,
        queued=1,
        trace=trace,
    )


def test_the_maximum_holds():
    reign = Reign(a_deployment(maximum=2))
    assert reign.step(a_backlog(queued=100), 1) == [(2, "backlog")]


def test_scale_in_waits_for_the_keep_warm_window():
    reign = Reign(a_deployment(maximum=4, keep_warm_s=10))
    reign.step(a_backlog(queued=3), 1)
    assert reign.step(a_backlog(), 2) == []
    assert reign.tick(11.9) == []
    assert reign.tick(12) == [(0, "idle")]


def test_keep_warm_of_zero_scales_in_with_the_message():
    reign = Reign(a_deployment(keep_warm_s=0))
    reign.step(a_backlog(queued=1), 1)
    assert reign.step(a_backlog(), 2) == [(0, "idle")]


def test_keep_warm_for_ever_never_scales_in():
    reign = Reign(a_deployment(keep_warm_s=-1))
    reign.step(a_backlog(queued=1), 1)
    reign.step(a_backlog(), 2)
    reign.tick(100_000)
    assert reign.target == 1


def test_a_superseded_version_drains_even_if_it_was_to_stay_for_ever():
    reign = Reign(a_deployment(minimum=1, keep_warm_s=-1))
    assert reign.target == 1
    reign.step(a_backlog(in_flight=1), 4)
    reign.step(a_backlog(), 5)
    assert reign.step(a_deployment(minimum=1, keep_warm_s=-1, latest=False), 6) == []
    assert reign.tick(15) == [(0, "idle")]


def test_the_minimum_is_kept_without_any_call():
    assert [(d.target, d.reason) for d in Reign(a_deployment(minimum=1)).said] == [(1, "minimum")]


@pytest.mark.parametrize("place", [{"latest": False}, {"ephemeral": True}])
def test_only_the_version_behind_a_name_has_a_minimum(place):
    assert Reign(a_deployment(minimum=1, **place)).said == []


def test_a_deleted_deployment_goes_to_zero_whatever_waits():
    reign = Reign(a_deployment(keep_warm_s=-1))
    reign.step(a_backlog(queued=1), 1)
    assert reign.step(a_deployment(keep_warm_s=-1, deleted=True), 2) == [(0, "deleted")]
    assert reign.step(a_backlog(queued=5), 3) == []


def test_a_removed_deployment_goes_to_zero():
    reign = Reign(a_deployment())
    reign.step(a_backlog(queued=1), 1)
    assert reign.step(DeploymentGone(F), 2) == [(0, "deleted")]
    assert F not in reign.machine.entries


def test_a_backlog_before_its_deployment_is_not_forgotten():
    reign = Reign()
    assert reign.step(a_backlog(queued=1), 1) == []
    assert reign.step(a_deployment(), 1.01) == [(1, "backlog")]


def test_a_backlog_of_nobody_is_forgotten():
    reign = Reign()
    reign.step(a_backlog(queued=1), 1)
    reign.tick(1 + UNKNOWN_KEPT_S)
    assert reign.machine.entries == {}


def test_silence_of_the_dispatcher_leaves_what_workers_report():
    reign = Reign(a_deployment(maximum=4, keep_warm_s=0))
    reign.step(a_backlog(queued=2, in_flight=1), 1)
    reign.step(a_beat(a_view(in_flight=("inv_1",))), 1 + BACKLOG_KEPT_S)
    assert reign.target == 3
    assert reign.tick(1.1 + BACKLOG_KEPT_S) == [(1, "idle")]
    assert reign.tick(60) == [(0, "idle")]


# -- Failed starts -----------------------------------------------------------------------------------


def failed(container="c1"):
    return a_change(ContainerState.FAILED, container, reason="start_failed")


def test_a_failed_start_lowers_the_target_to_what_lives():
    reign = Reign(a_deployment())
    reign.step(a_backlog(queued=1), 1)
    assert reign.step(failed(), 2) == [(0, "start_failed")]
    assert reign.step(a_backlog(queued=1), 2.1) == []  # the same work, said again


def test_a_failed_start_spares_containers_that_live():
    reign = Reign(a_deployment(maximum=3))
    reign.step(a_backlog(queued=3), 1)
    for number in (1, 2, 3):
        reign.step(a_change(ContainerState.STARTING, f"c{number}"), 1)
    assert reign.step(failed("c3"), 2) == [(2, "start_failed")]
    reign.step(a_backlog(), 2.1)
    assert reign.tick(5) == []  # the two are kept warm


def test_a_new_invocation_in_the_pause_gets_one_try():
    reign = Reign(a_deployment())
    reign.step(a_backlog(queued=1, arrivals=1), 1)
    reign.step(failed(), 2)
    reign.step(a_backlog(arrivals=1), 2.1)
    assert reign.step(a_backlog(queued=1, arrivals=2), 2.2) == [(1, "trial")]
    assert reign.step(failed("c2"), 2.3) == [(0, "start_failed")]
    assert reign.step(a_backlog(queued=1, arrivals=2), 2.4) == []


def test_the_pause_doubles_up_to_a_minute_and_ends_with_the_first_ready():
    reign = Reign(a_deployment(minimum=1))
    pauses = []
    now = 0.0
    for number in range(8):
        reign.step(failed(f"c{number}"), now)
        assert reign.target == 0
        began = now
        while reign.target == 0:
            now += 0.5
            reign.tick(now)
        pauses.append(now - began)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    reign.step(a_change(ContainerState.READY, "good"), now)
    reign.step(failed("c9"), now)
    assert reign.machine.entries[F].history.failures == 1


def live_and_crash(reign, number, at, *, life=1.0, start=True):
    """Let a container start, and crash after a life."""
    if start:
        reign.step(a_change(ContainerState.STARTING, f"c{number}"), at)
        reign.step(a_change(ContainerState.READY, f"c{number}"), at)
    return reign.step(a_change(ContainerState.FAILED, f"c{number}", reason="crashed"), at + life)


def pause_after(reign, now):
    began = now
    while reign.target == 0:
        now += 0.5
        reign.tick(now)
    return now - began


def test_a_container_that_crashed_once_soon_after_it_was_ready_is_replaced_at_once():
    reign = Reign(a_deployment(minimum=1))
    assert live_and_crash(reign, 1, 0) == []
    assert reign.target == 1


def test_containers_that_keep_crashing_make_longer_and_longer_pauses_up_to_a_minute():
    reign = Reign(a_deployment(minimum=1))
    live_and_crash(reign, 0, 0)
    now, pauses = 1.0, []
    for number in range(1, 8):
        assert live_and_crash(reign, number, now) == [(0, "crashed")]
        pause = pause_after(reign, now + 1)
        pauses.append(pause)
        now += 1 + pause
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


def test_while_calls_wait_a_crashed_container_is_replaced_after_the_first_pause():
    reign = Reign(a_deployment())
    reign.step(a_backlog(queued=1), 0)
    live_and_crash(reign, 0, 0)
    now = 1.0
    for number in range(1, 6):
        reign.step(a_backlog(queued=1), now + 0.9)
        live_and_crash(reign, number, now)
        assert reign.target == 0
        now += 1
        for _ in range(4):
            now += 0.5
            reign.step(a_backlog(queued=1), now)
        assert reign.target == 1


def test_a_crash_spares_containers_that_live():
    reign = Reign(a_deployment(minimum=2, maximum=2))
    reign.step(a_change(ContainerState.READY, "old"), 0)
    live_and_crash(reign, 1, 0)
    assert live_and_crash(reign, 2, 1) == [(1, "crashed")]


def test_a_container_that_lives_longer_ends_the_count_of_crashes():
    reign = Reign(a_deployment(minimum=1))
    live_and_crash(reign, 1, 0)
    live_and_crash(reign, 2, 1)
    assert pause_after(reign, 2) == 2
    live_and_crash(reign, 3, 4, life=10)
    assert live_and_crash(reign, 4, 20) == []
    assert reign.target == 1


def test_another_container_that_lives_longer_ends_the_count_of_crashes_too():
    reign = Reign(a_deployment(minimum=2, maximum=2))
    live_and_crash(reign, 1, 0)
    live_and_crash(reign, 2, 1)
    reign.step(a_change(ContainerState.STARTING, "good"), 5)
    reign.step(a_change(ContainerState.READY, "good"), 5)
    assert live_and_crash(reign, 3, 15) == []
    assert reign.target == 2


def last_failing(reign):
    said = reign.said[-1].failing
    return (said.why, said.in_a_row, said.held_s) if said else None


def test_failures_are_told_with_their_count_and_pause_and_once_more_when_they_are_over():
    reign = Reign(a_deployment(minimum=1))
    reign.step(failed(), 1)
    assert last_failing(reign) == ("start_failed", 1, 2.0)
    reign.tick(3)
    assert last_failing(reign) == ("start_failed", 1, 0.0)
    reign.step(failed("c2"), 4)
    assert last_failing(reign) == ("start_failed", 2, 4.0)
    reign.tick(8)
    assert reign.step(a_change(ContainerState.READY, "c3"), 9) == [(1, "minimum")]
    assert last_failing(reign) is None
    reign.step(a_change(ContainerState.STOPPED, "c3"), 9)
    live_and_crash(reign, 4, 10)
    assert last_failing(reign) is None
    live_and_crash(reign, 5, 11)
    assert last_failing(reign) == ("crashed", 2, 2.0)
    reign.tick(14)
    reign.step(a_change(ContainerState.STARTING, "c6"), 15)
    reign.step(a_change(ContainerState.READY, "c6"), 15)
    assert last_failing(reign) == ("crashed", 2, 0.0)
    assert reign.step(a_beat(a_view("c6")), 25) == [(1, "minimum")]
    assert last_failing(reign) is None


def test_a_failure_that_changes_no_target_is_told_too():
    reign = Reign(a_deployment(maximum=2))
    assert reign.step(failed(), 1) == [(0, "idle")]
    assert last_failing(reign) == ("start_failed", 1, 2.0)


def test_a_new_leader_begins_to_count_anew_and_says_so():
    restored = decided(0)
    failing = Failing(why="start_failed", in_a_row=4, held_s=16.0)
    restored = msgspec.structs.replace(restored, failing=failing)
    reign = Reign(a_deployment(), restored=restored)
    assert [(d.target, d.failing) for d in reign.said] == [(0, None)]


def test_a_deleted_deployment_is_not_called_failing():
    reign = Reign(a_deployment(minimum=1))
    reign.step(failed(), 1)
    reign.step(a_deployment(minimum=1, deleted=True), 2)
    assert last_failing(reign) is None


def test_nothing_is_started_again_when_nobody_waits():
    reign = Reign(a_deployment(keep_warm_s=600))
    reign.step(a_backlog(queued=1), 1)
    reign.step(failed(), 2)
    reign.step(a_backlog(arrivals=1), 2.1)
    assert [reign.tick(t) for t in (4, 10, 100)] == [[], [], []]


# -- Taking over -------------------------------------------------------------------------------------


def test_nothing_is_decided_before_all_was_read():
    machine = Autoscaler(GENERATION)
    assert machine.step(a_deployment(maximum=5), 0) == ()
    assert machine.step(a_backlog(queued=1), 0) == ()
    assert machine.step(decided(5), 0) == ()
    (takeover,) = machine.step(CaughtUp(), 0)
    assert (takeover.target, takeover.reason) == (5, "takeover")


def test_what_the_last_leader_started_goes_to_zero_if_nothing_is_heard_of_it():
    reign = Reign(a_deployment(maximum=5, keep_warm_s=10), restored=decided(3))
    assert [(d.target, d.reason) for d in reign.said] == [(3, "takeover")]
    assert reign.tick(9.9) == []
    assert reign.tick(10) == [(0, "idle")]


def test_targets_of_deployments_that_are_gone_go_to_zero():
    reign = Reign(restored=decided(3))
    assert reign.tick(UNKNOWN_KEPT_S) == [(0, "deleted")]
    assert reign.machine.entries == {}


def test_a_late_decision_of_an_old_leader_is_overruled():
    reign = Reign(a_deployment())
    assert reign.step(decided(1), 5) == [(0, "takeover")]
    assert reign.step(decided(0), 6) == []


def test_ones_own_decisions_come_back_without_effect():
    reign = Reign(a_deployment())
    reign.step(a_backlog(queued=1), 1)
    assert reign.step(reign.said[-1], 1.1) == []
    assert reign.step(decided(0, GENERATION + 1), 1.2) == []


def test_a_target_above_zero_is_said_again_now_and_then():
    reign = Reign(a_deployment(minimum=1))
    assert reign.tick(REAFFIRM_S - 1) == []
    assert reign.tick(REAFFIRM_S) == [(1, "reaffirmed")]


def test_idle_deployments_cost_a_tick_nothing():
    reign = Reign(a_deployment())
    reign.step(a_backlog(queued=1), 1)
    reign.step(a_backlog(), 2)
    reign.tick(13)
    assert reign.machine._awake == set()


def test_policy_bounds_what_the_spec_says():
    policy = policy_of(a_deployment(minimum=5, maximum=2, tasks_per_container=0))
    assert (policy.minimum, policy.maximum, policy.tasks_per_container) == (2, 2, 1)


def test_older_news_of_a_backlog_is_no_news_while_the_newer_is_fresh():
    reign = Reign(a_deployment(maximum=5))
    waiting = a_backlog(queued=2, generation=2, number=8)
    reign.step(a_backlog(queued=0, generation=2, number=9), 1)
    assert reign.step(waiting, 2) == []
    assert reign.step(a_backlog(queued=3, generation=1, number=99), 2) == []
    assert reign.target == 0
    # A dispatcher whose broker lost its disk may count from the beginning.
    assert reign.step(waiting, 1 + BACKLOG_KEPT_S + 0.1) == [(2, "backlog")]
