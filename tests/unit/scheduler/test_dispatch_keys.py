"""Who of one key may have a slot, where the property test once found two."""

from __future__ import annotations

import pytest
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import State
from glowplug_scheduler import dispatch as d

from tests.support.builders_scheduler import a_container, a_record, beats, moved, of_type

ONE = {"key": "one", "key_limit": 1}


@pytest.fixture
def step():
    """A dispatcher that knows all records and two containers of one slot, in different deployments."""
    dispatcher = d.Dispatcher(0, 1)

    def step(event, now=110.0):
        decisions = dispatcher.step(event, now)
        dispatcher.check()
        return [h.invocation_id for h in of_type(decisions, d.Hand)]

    step(d.ShardTaken(1), 100.0)
    for name in ("a", "b"):
        step(moved(ContainerState.READY, f"ctr_{name}", f"dep_{name}", slots=1))
    step(d.RecordsRead())
    step(d.Tick())
    return step


def test_what_was_handed_keeps_its_key_from_its_betters_even_when_no_beat_lists_it(step):
    assert step(a_record("inv_1", 1, deployment="dep_a", priority=-1, **ONE)) == ["inv_1"]
    step(a_record("inv_2", 2, deployment="dep_a"))
    views = [a_container(f"ctr_{n}", f"dep_{n}", slots=1) for n in ("a", "b")]
    for number in (1, 2, 3):  # it was never heard of there, so it waits again, behind inv_2
        step(beats(number, *views), 111.0 + number)
    assert step(a_record("inv_3", 3, deployment="dep_b", priority=5, **ONE), 115.0) == []
    # The old hand comes late, and is begun; nothing runs beside it.
    running = a_record("inv_1", 4, State.RUNNING, "dep_a", "ctr_a", attempt=1, priority=-1, **ONE)
    step(running, 115.1)
    assert step(a_record("inv_1", 5, State.SUCCEEDED, "dep_a", attempt=1), 115.2) == ["inv_3"]


def test_what_ran_beside_another_when_it_was_first_heard_of_tries_again_in_its_turn(step):
    step(a_record("inv_0", 1, deployment="dep_a"))  # has the slot
    step(a_record("inv_1", 2, deployment="dep_a", **ONE))
    step(a_record("inv_2", 3, State.RUNNING, "dep_b", "ctr_elsewhere", attempt=1, **ONE))
    assert step(a_record("inv_2", 4, State.RETRY_WAIT, "dep_b", attempt=1, **ONE)) == []
    assert step(a_record("inv_1", 5, State.CANCELLED, "dep_a")) == ["inv_2"]


def test_what_was_never_handed_lets_its_betters_go_first(step):
    step(a_record("inv_0", 1, deployment="dep_a"))  # has the slot
    step(a_record("inv_1", 2, deployment="dep_a", priority=-1, **ONE))
    assert step(a_record("inv_3", 3, deployment="dep_b", priority=5, **ONE)) == ["inv_3"]


@pytest.mark.parametrize("beat_first", [True, False])
def test_the_next_owner_lets_what_was_cancelled_and_still_runs_keep_its_key(beat_first):
    """The record says that it ended; the worker's beat, that its code has not."""
    dispatcher = d.Dispatcher(0, 1)

    def step(event, now):
        decisions = dispatcher.step(event, now)
        dispatcher.check()
        return [h.invocation_id for h in of_type(decisions, d.Hand)]

    fifo = {"key": "fifo", "key_limit": 0}
    busy = a_container("ctr_a", "dep_a", slots=2, in_flight=("inv_1",))
    told = [
        a_record("inv_1", 2, State.CANCELLED, "dep_a", attempt=1, **fifo),
        a_record("inv_2", 3, deployment="dep_a", **fifo),
        d.RecordsRead(),
    ]
    step(d.ShardTaken(2), 100.0)
    step(moved(ContainerState.READY, "ctr_a", "dep_a", slots=2), 100.0)
    beat = beats(1, busy)
    for event in [beat, *told] if beat_first else [*told, beat]:
        step(event, 101.0)
    assert step(d.Tick(), 105.0) == []
    assert step(beats(2, a_container("ctr_a", "dep_a", slots=2)), 106.0) == ["inv_2"]


def test_what_the_owner_before_let_overtake_keeps_its_key_over_a_retry():
    """It did not know of the older one; we know both, and that the younger runs."""
    dispatcher = d.Dispatcher(0, 1)

    def step(event, now):
        decisions = dispatcher.step(event, now)
        dispatcher.check()
        return [h.invocation_id for h in of_type(decisions, d.Hand)]

    fifo = {"key": "fifo", "key_limit": 0}
    step(d.ShardTaken(1), 100.0)
    step(a_record("inv_1", 1, deployment="dep_a", **fifo), 100.0)
    running = a_record("inv_2", 3, State.RUNNING, "dep_a", "ctr_a", attempt=1, order=2, **fifo)
    step(running, 100.0)
    step(moved(ContainerState.READY, "ctr_a", "dep_a", slots=1), 100.0)
    step(d.RecordsRead(), 100.0)
    step(d.Tick(), 110.0)
    again = {"attempt": 1, "lost_attempts": 1, "order": 2, **fifo}
    step(moved(ContainerState.FAILED, "ctr_a", "dep_a"), 111.0)
    step(a_record("inv_2", 4, State.RETRY_WAIT, "dep_a", **again), 111.1)
    assert step(moved(ContainerState.READY, "ctr_b", "dep_a", slots=1), 112.0) == ["inv_2"]
    ended = a_record("inv_2", 6, State.SUCCEEDED, "dep_a", **again)
    step(ended, 113.0)
    assert "inv_1" in dispatcher.state.items
