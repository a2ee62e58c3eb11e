"""Beats tell of changes soon, and of many containers less often."""

from __future__ import annotations

import pytest
from glowplug_worker.service import BEAT_S, BEAT_SOON_S, beat_in_s
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("containers", "expected"), [(0, 0.01), (5, 0.01), (50, 0.1), (300, 0.6)])
def test_the_more_there_is_to_tell_the_longer_a_beat_gathers(containers, expected):
    assert beat_in_s(containers) == pytest.approx(expected)


@given(st.integers(0, 10_000))
def test_it_is_never_later_than_the_next_regular_one(containers):
    assert BEAT_SOON_S <= beat_in_s(containers) <= BEAT_S
    assert beat_in_s(containers) <= beat_in_s(containers + 1)
