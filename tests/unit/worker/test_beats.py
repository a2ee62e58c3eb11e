"""Beats tell of changes soon, and of many containers less often."""

from __future__ import annotations

import pytest
from glowplug_worker.service import BEAT_S, BEAT_SOON_S, beat_in_s
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("containers", "since_s", "expected"),
    [
        (0, 0.0, 0.01),
        (5, 0.0, 0.01),
        (50, 0.0, 0.05),
        (50, 0.03, 0.02),
        (300, 0.1, 0.2),
        (300, 9.0, 0.01),
    ],
)
def test_after_a_beat_of_many_containers_the_next_gathers_longer(containers, since_s, expected):
    assert beat_in_s(containers, since_s) == pytest.approx(expected)


@given(st.integers(0, 10_000), st.floats(0, 10))
def test_it_is_never_later_than_the_next_regular_one(containers, since_s):
    assert BEAT_SOON_S <= beat_in_s(containers, since_s) <= BEAT_S
    assert beat_in_s(containers, since_s) <= beat_in_s(containers + 1, since_s)


def test_the_first_change_after_a_quiet_while_is_told_at_once():
    assert beat_in_s(1_000, float("inf")) == BEAT_SOON_S
