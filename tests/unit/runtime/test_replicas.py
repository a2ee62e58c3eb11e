"""Whom to ask: the same replica for the same name, and another one when it does not answer."""

from __future__ import annotations

from glowplug_contracts.rendezvous import ranked
from glowplug_runtime.replicas import PASSED_OVER_S, Replicas

from tests.support.clock import FakeClock

URLS = ["http://a", "http://b", "http://c"]


def test_the_same_name_goes_to_the_same_replica() -> None:
    replicas = Replicas(lambda: URLS)
    chosen = {name: replicas.choose(name) for name in map(str, range(50))}
    assert set(chosen.values()) == set(URLS)
    assert chosen == {name: Replicas(lambda: URLS[::-1]).choose(name) for name in chosen}
    groups = replicas.grouped(chosen)
    assert sorted(name for group in groups for name in group) == sorted(chosen)
    assert all(len({chosen[name] for name in group}) == 1 for group in groups)


def test_one_that_failed_is_passed_over_for_a_while() -> None:
    clock = FakeClock()
    replicas = Replicas(lambda: URLS, clock.now)
    first, second, third = ranked("x", URLS)
    replicas.failed(first)
    assert replicas.choose("x") == second
    replicas.failed(second)
    replicas.failed(third)
    assert replicas.choose("x") == first  # nobody else is left
    clock.advance(PASSED_OVER_S)
    assert replicas.choose("x") == first


def test_nobody_is_chosen_while_nobody_is_ready() -> None:
    replicas = Replicas(list)
    assert replicas.choose("x") is None
    assert replicas.grouped(["x", "y"]) == [["x", "y"]]
