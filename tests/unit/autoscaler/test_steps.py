"""Scale-out goes in steps: as many again as are ready, so that a burst does not drown the host in starts."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_autoscaler.plan import FIRST_STEP, FORKED_STEP, History, Observed, decide
from glowplug_autoscaler.policy import Policy, Reason
from glowplug_autoscaler.signals import WORKER_SILENT_S, Fleet, Peak
from glowplug_contracts.messages.worker import WorkerBeat
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders_scale import a_beat

MANY = Policy(maximum=100, tasks_per_container=1)


def a_forking_beat(**fields: object) -> WorkerBeat:
    return msgspec.structs.replace(a_beat(), templates=("dep_f",), **fields)


def target(policy: Policy = MANY, **observed: int | bool) -> int:
    plan = decide(policy, Observed(queued=1000, **observed), History(peak=Peak(window_s=10.0)), 5.0)
    assert plan.reason is Reason.BACKLOG
    return plan.target


@pytest.mark.parametrize(
    ("ready", "expected"), [(0, FIRST_STEP), (1, FIRST_STEP), (4, 8), (8, 16), (60, 100)]
)
def test_at_most_as_many_again_as_are_ready(ready, expected):
    assert target(ready=ready, live=ready, decided=ready) == expected


@pytest.mark.parametrize(("ready", "expected"), [(0, 16), (1, 16), (16, 80), (60, 100)])
def test_forks_are_cheap_so_their_steps_are_larger(ready, expected):
    assert target(ready=ready, live=ready, decided=ready, forked=True) == expected


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 500), st.booleans())
def test_a_step_is_bounded_by_what_is_ready_and_never_goes_back(ready, decided, queued, forked):
    observed = Observed(
        queued=queued, live=ready, ready=ready, decided=min(decided, 100), forked=forked
    )
    history = History(peak=Peak(window_s=10.0))
    found = decide(MANY, observed, history, 5.0).target
    plain = decide(MANY, msgspec.structs.replace(observed, forked=False), history, 5.0).target
    assert plain <= found <= min(queued, 100)
    times = FORKED_STEP if forked else 1
    assert found <= max(FIRST_STEP * times, ready * (1 + times), observed.decided)
    if queued >= observed.decided:
        assert found >= observed.decided


def test_whether_containers_are_forked_is_the_workers_word():
    fleet = Fleet()
    fleet.hear_beat(a_forking_beat(), 0.0)
    assert (fleet.forked("dep_f"), fleet.forked("dep_g")) == (True, False)
    fleet.hear_beat(a_forking_beat(draining=True), 1.0)
    assert not fleet.forked("dep_f"), "it forks nothing new"
    fleet.hear_beat(a_forking_beat(), 2.0)
    fleet.forget_silent(2.0 + WORKER_SILENT_S + 0.1)
    assert not fleet.forked("dep_f"), "nobody has heard of it"


def test_a_step_is_taken_from_what_was_decided_and_never_back():
    assert target(ready=0, decided=50) == 50


def test_the_minimum_needs_no_steps():
    policy = Policy(minimum=20, maximum=100)
    assert target(policy) == 20
