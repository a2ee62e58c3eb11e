"""What the autoscaler remembers: peaks of need, and live containers."""

from __future__ import annotations

import pytest
from glowplug_autoscaler.signals import (
    ENDED_KEPT,
    QUICK_DEATH_S,
    WORKER_SILENT_S,
    End,
    Fleet,
    Peak,
)
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.container import ContainerKind, ContainerState
from glowplug_contracts.messages.invocation import RemoteError

from tests.support.builders_scale import a_beat, a_change, a_view

F = DeploymentId("dep_f")


def test_a_peak_counts_until_the_window_has_passed():
    peak = Peak(window_s=10)
    peak.observe(3, 0)
    peak.observe(1, 5)
    assert [peak.highest(14.9), peak.highest(15)] == [3, 1]


def test_peaks_fall_step_by_step():
    peak = Peak(window_s=10)
    for need, at in ((5, 0), (3, 2), (4, 3), (0, 6)):
        peak.observe(need, at)
    assert [peak.highest(t) for t in (11, 12, 15.9, 16)] == [5, 4, 4, 0]


def test_an_endless_window_never_forgets():
    peak = Peak(window_s=-1)
    peak.observe(7, 0)
    peak.observe(0, 1)
    assert peak.highest(1e9) == 7


def test_restarting_keeps_only_the_given_past():
    peak = Peak(window_s=-1)
    peak.observe(7, 0)
    peak.observe(0, 1)
    peak.restart(2, 2)
    assert peak.highest(100) == 2


def test_a_container_is_live_from_its_event_until_its_end():
    fleet = Fleet()
    fleet.hear_event(a_change(ContainerState.BOUND), 0)
    assert fleet.live(F) == 1
    fleet.hear_event(a_change(ContainerState.STOPPED), 1)
    assert fleet.live(F) == 0


def test_a_late_beat_does_not_bring_an_ended_container_back():
    fleet = Fleet()
    fleet.hear_beat(a_beat(a_view()), 0)
    fleet.hear_event(a_change(ContainerState.STOPPED), 1)
    fleet.hear_beat(a_beat(a_view()), 1.1)
    assert fleet.live(F) == 0


def test_a_silent_workers_containers_do_not_count():
    fleet = Fleet()
    fleet.hear_beat(a_beat(a_view(in_flight=("inv_1",))), 0)
    assert fleet.forget_silent(WORKER_SILENT_S) == set()
    assert fleet.in_flight(F) == 1
    assert fleet.forget_silent(WORKER_SILENT_S + 0.1) == {F}
    assert (fleet.live(F), fleet.in_flight(F)) == (0, 0)


def test_a_beat_is_the_workers_whole_truth():
    fleet = Fleet()
    fleet.hear_beat(a_beat(a_view("c1"), a_view("c2")), 0)
    fleet.hear_beat(a_beat(a_view("x", "g"), worker="w2"), 0)
    fleet.hear_beat(a_beat(a_view("c2")), 1)
    assert (fleet.live(F), fleet.live(DeploymentId("dep_g"))) == (1, 1)


def test_sandboxes_do_not_count():
    fleet = Fleet()
    fleet.hear_beat(a_beat(a_view(kind=ContainerKind.SANDBOX)), 0)
    assert fleet.live(F) == 0


def test_a_failure_before_ready_is_a_failed_start_and_counts_once():
    fleet = Fleet()
    fleet.hear_event(a_change(ContainerState.STARTING), 0)
    error = RemoteError(code="function.crashed", type="ContainerCrashedError", message="9")
    failed = a_change(ContainerState.FAILED, reason="crashed", error=error)
    assert [fleet.hear_event(failed, 1) for _ in "12"] == [End.START_FAILED, End.NONE]


def test_a_crash_after_ready_is_no_failed_start():
    fleet = Fleet()
    fleet.hear_event(a_change(ContainerState.STARTING), 0)
    fleet.hear_event(a_change(ContainerState.READY), 0)
    crash = a_change(ContainerState.FAILED, reason="crashed")
    assert fleet.hear_event(crash, 1) is End.DIED_QUICKLY


@pytest.mark.parametrize("reason", ["crashed", "timeout"])
def test_a_container_that_lived_long_says_so_however_it_ends(reason):
    fleet = Fleet()
    fleet.hear_event(a_change(ContainerState.STARTING), 0)
    fleet.hear_event(a_change(ContainerState.READY), 5)
    end = a_change(ContainerState.FAILED, reason=reason)
    assert fleet.hear_event(end, 5 + QUICK_DEATH_S) is End.LIVED


def test_a_container_first_heard_of_as_ready_may_be_old():
    fleet = Fleet()
    fleet.hear_beat(a_beat(a_view()), 0)
    crash = a_change(ContainerState.FAILED, reason="crashed")
    assert fleet.hear_event(crash, 1) is End.LIVED


def test_what_was_stopped_soon_after_it_was_ready_did_not_die():
    fleet = Fleet()
    fleet.hear_event(a_change(ContainerState.STARTING), 0)
    fleet.hear_event(a_change(ContainerState.READY), 0)
    assert fleet.hear_event(a_change(ContainerState.STOPPED, reason="idle"), 1) is End.NONE


def test_a_start_that_was_lost_with_its_worker_is_no_failed_start():
    fleet = Fleet()
    fleet.hear_event(a_change(ContainerState.STARTING), 0)
    lost = a_change(ContainerState.FAILED, reason="worker_lost")
    assert fleet.hear_event(lost, 1) is End.NONE
    assert fleet.live(F) == 0


def test_what_ended_is_remembered_within_a_bound():
    fleet = Fleet()
    for number in range(ENDED_KEPT + 10):
        fleet.hear_event(a_change(ContainerState.STOPPED, f"c{number}"), 0)
    assert len(fleet._ended) == ENDED_KEPT
