"""Chains, groups and chords as a program sees them."""

from __future__ import annotations

import pytest
from glowplug import chain, chord, errors, group

from tests.e2e.test_tasks import ended, queues, shown  # noqa: F401 - fixtures
from tests.support.eventually import eventually_sync


def test_a_chain_passes_each_result_on(queues):  # noqa: F811
    assert (
        chain(queues.plus.s(1, 1), queues.plus.s(10), queues.plus.s(b=100))
        .put()
        .result(timeout=120)
        == 112
    )
    assert (queues.plus.s(1, 1) | queues.plus.si(5, 5)).put().result(timeout=60) == 10


def test_a_group_is_many_tasks_and_a_chord_gets_their_results_in_order(queues):  # noqa: F811
    tasks = group(queues.plus.s(n) for n in range(20)).put()
    assert tasks.results(timeout=120) == [n + 1 for n in range(20)]
    summed = chord((queues.plus.s(n) for n in range(20)), queues.total.s()).put()
    assert summed.result(timeout=120) == sum(range(1, 21))
    fanned = chain(
        queues.plus.s(0),
        group(queues.plus.s(n) for n in (10, 20)),
        queues.total.s(),
        queues.plus.s(),
    )
    assert fanned.put().result(timeout=120) == 11 + 21 + 1


def test_what_waits_for_a_failure_fails_and_names_it(queues):  # noqa: F811
    last = chain(queues.breaks.s(), queues.plus.s(), queues.plus.s()).put()
    with pytest.raises(errors.PredecessorFailedError, match="did not succeed"):
        last.result(timeout=120)
    assert last.status() == "ERROR"


def test_followers_of_success_and_of_failure(queues, shown):  # noqa: F811
    failing = queues.breaks.s().on_complete(queues.plus.s()).on_error(queues.told_of.s())
    task = failing.put()
    with pytest.raises(Exception, match="broken"):
        task.result(timeout=120)
    told = _followers(shown, task)
    assert [one.result(timeout=60) for one in told if one.status() == "COMPLETE"] == [
        ["ShopError", "broken", "failed"]
    ]
    fine = queues.plus.apply_async((1,), link=queues.plus.s(5), link_error=queues.told_of.s())
    assert fine.result(timeout=60) == 2
    found = _followers(shown, fine)
    assert {one.status() for one in found} == {"COMPLETE", "CANCELLED"}


def _followers(shown, task):  # noqa: F811
    import glowplug

    followers = [glowplug.Task(one) for one in shown(task)["then"]]
    assert len(followers) == 2
    eventually_sync(lambda: all(ended(one) for one in followers))
    return followers
