"""Whom of the workers that have a tree to ask, and how fast what they give may leave."""

from __future__ import annotations

import pytest
from glowplug_worker.images.peers.choice import ASK_AGAIN_S, PASSED_OVER_S, PeerChoice
from glowplug_worker.images.peers.pace import Pace

ONE, TWO = "http://one:1", "http://two:2"


def test_one_caller_asks_who_they_are_and_again_after_a_while() -> None:
    choice = PeerChoice()
    assert choice.due(10.0)
    assert not choice.due(10.0)
    assert not choice.due(10.0 + ASK_AGAIN_S - 0.1)
    assert choice.due(10.0 + ASK_AGAIN_S)


def test_who_failed_is_passed_over_for_a_while() -> None:
    choice = PeerChoice()
    assert choice.choose("x", 0.0) is None
    choice.told([ONE, TWO])
    first = choice.choose("x", 0.0)
    assert first in (ONE, TWO)
    choice.failed(first, 0.0)
    second = choice.choose("x", 0.0)
    assert {first, second} == {ONE, TWO}
    assert choice.choose("x", PASSED_OVER_S) == first


def test_who_lied_is_not_asked_again_however_often_it_is_told_of() -> None:
    choice = PeerChoice()
    choice.told([ONE])
    choice.lied(ONE)
    choice.told([ONE])
    assert choice.choose("x", 1e9) is None


def test_names_are_spread_over_who_has_them() -> None:
    choice = PeerChoice()
    choice.told([ONE, TWO])
    assert {choice.choose(f"{number}", 0.0) for number in range(64)} == {ONE, TWO}


def test_bytes_leave_as_fast_as_they_may_over_any_time() -> None:
    pace = Pace(100)
    assert pace.wait_s(50, 0.0) == 0.0
    assert pace.wait_s(50, 0.0) == pytest.approx(0.5)
    assert pace.wait_s(100, 0.0) == pytest.approx(1.0)
    assert pace.wait_s(10, 60.0) == 0.0
    assert Pace(0).wait_s(10**12, 0.0) == Pace(0).wait_s(1, 0.0) == 0.0
