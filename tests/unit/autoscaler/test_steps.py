"""Scale-out goes in steps: as many again as are ready, so that a burst does not drown the host in starts."""

from __future__ import annotations

import pytest
from glowplug_autoscaler.plan import FIRST_STEP, History, Observed, decide
from glowplug_autoscaler.policy import Policy, Reason
from glowplug_autoscaler.signals import Peak

MANY = Policy(maximum=100, tasks_per_container=1)


def target(policy: Policy = MANY, **observed: int) -> int:
    plan = decide(policy, Observed(queued=1000, **observed), History(peak=Peak(window_s=10.0)), 5.0)
    assert plan.reason is Reason.BACKLOG
    return plan.target


@pytest.mark.parametrize(
    ("ready", "expected"), [(0, FIRST_STEP), (1, FIRST_STEP), (4, 8), (8, 16), (60, 100)]
)
def test_at_most_as_many_again_as_are_ready(ready, expected):
    assert target(ready=ready, live=ready, decided=ready) == expected


def test_a_step_is_taken_from_what_was_decided_and_never_back():
    assert target(ready=0, decided=50) == 50


def test_the_minimum_needs_no_steps():
    policy = Policy(minimum=20, maximum=100)
    assert target(policy) == 20
