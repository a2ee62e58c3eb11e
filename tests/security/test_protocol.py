"""Hostile runners against a real worker: what no runner may say ends its container, and harms nobody."""

from __future__ import annotations

import pytest

from tests.security.protocol import CASES, run

CONTROL = "the neighbour speaks the same protocol honestly, and is answered after each"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run(tmp_path_factory.mktemp("protocol") / "p")


@pytest.mark.attempt(control=CONTROL)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_a_hostile_runner_harms_only_itself(made, number):
    found, _ = made
    case, one = CASES[number], found[number]
    assert one.neighbour
    assert one.failed or not case.ends
    if case.somehow:
        return
    if case.ends:
        assert one.violation or case.name == "an end of the start, after the start"
    else:
        assert one.outcomes == 1
        assert not one.failed


@pytest.mark.attempt(control=CONTROL)
def test_nobody_spoke_in_the_victims_name(made):
    assert made[1] == []
