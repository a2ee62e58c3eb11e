"""Idle, lost and ended sessions."""

from __future__ import annotations

import pytest
from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import ContainerKind
from glowplug_contracts.messages.sandbox import SandboxState
from glowplug_sandbox.session import ContainerLost, ContainerReady, StartTimedOut, Terminate
from glowplug_sandbox.tending import (
    BEATS_MISSED_MAX,
    ENDED_KEPT_S,
    WORKER_SILENT_S,
    Apply,
    Forget,
    SessionGone,
    SessionSeen,
    Tender,
    Ticked,
)

from tests.support.builders_sandbox import CONTAINER, KEY, a_session
from tests.support.builders_scale import a_beat, a_view

RUNNING = SandboxState.RUNNING


def holding(in_flight=(), worker="w1"):
    view = a_view(CONTAINER, "-", in_flight=in_flight, kind=ContainerKind.SANDBOX)
    return a_beat(view, worker=worker)


@pytest.fixture
def tender():
    return Tender(start_s=120.0)


def see(tender, record, now=0.0, revision=1):
    assert tender.step(SessionSeen(KEY, record, revision), now) == ()


def test_an_idle_session_ends_after_its_time_to_live(tender):
    see(tender, a_session(RUNNING, ttl_s=10))
    assert tender.step(Ticked(), 10) == ()
    assert tender.step(Ticked(), 10.1) == (Apply(KEY, Terminate("idle")),)


def test_each_use_renews_the_time_to_live(tender):
    see(tender, a_session(RUNNING, ttl_s=10))
    see(tender, a_session(RUNNING, ttl_s=10), now=8, revision=2)
    assert tender.step(Ticked(), 17) == ()
    assert tender.step(Ticked(), 18.1) == (Apply(KEY, Terminate("idle")),)


def test_what_still_runs_in_it_is_use(tender):
    see(tender, a_session(RUNNING, ttl_s=10))
    tender.step(holding(in_flight=("exe_1",)), 9)
    assert tender.step(Ticked(), 15) == ()
    tender.step(holding(), 18)
    assert tender.step(Ticked(), 19.1) == (Apply(KEY, Terminate("idle")),)


def test_hearing_the_same_revision_again_is_no_use(tender):
    see(tender, a_session(RUNNING, ttl_s=10))
    see(tender, a_session(RUNNING, ttl_s=10), now=9)
    assert tender.step(Ticked(), 10.1) == (Apply(KEY, Terminate("idle")),)


def test_minus_one_lives_for_ever(tender):
    see(tender, a_session(RUNNING, ttl_s=-1))
    now = 0
    while now < 100_000:
        now += 50
        tender.step(holding(), now)
    assert tender.step(Ticked(), now) == ()


def test_a_running_container_that_its_worker_forgot_is_lost(tender):
    see(tender, a_session(RUNNING))
    for beat in range(BEATS_MISSED_MAX - 1):
        assert tender.step(a_beat(), beat) == []
    tender.step(holding(), BEATS_MISSED_MAX)  # a late beat in between proves that it lives
    for beat in range(BEATS_MISSED_MAX - 1):
        assert tender.step(a_beat(), 10 + beat) == []
    (lost,) = tender.step(a_beat(), 20)
    assert isinstance(lost.event, ContainerLost)


def test_another_workers_beat_says_nothing_of_it(tender):
    see(tender, a_session(RUNNING))
    for beat in range(10):
        assert tender.step(a_beat(worker="w2"), beat) == []


def test_a_worker_silent_for_long_loses_its_sessions(tender):
    see(tender, a_session(RUNNING))
    tender.step(holding(), 5)
    assert tender.step(Ticked(), 5 + WORKER_SILENT_S) == ()
    (lost,) = tender.step(Ticked(), 5.1 + WORKER_SILENT_S)
    assert isinstance(lost.event, ContainerLost)


def test_a_beat_tells_of_a_start_that_nobody_heard(tender):
    see(tender, a_session())
    assert tender.step(holding(), 1) == [Apply(KEY, ContainerReady(WorkerId("w1")))]


def test_a_start_whose_creator_died_times_out(tender):
    see(tender, a_session())
    assert tender.step(Ticked(), 120.5) == ()
    assert tender.step(Ticked(), 121.5) == (Apply(KEY, StartTimedOut(120.0)),)


def test_ended_sessions_are_forgotten_after_a_while(tender):
    see(tender, a_session(SandboxState.TERMINATED), revision=4)
    assert tender.step(Ticked(), ENDED_KEPT_S) == ()
    assert tender.step(Ticked(), ENDED_KEPT_S + 1) == (Forget(KEY, 4),)
    tender.step(SessionGone(KEY), ENDED_KEPT_S + 2)
    assert tender.step(Ticked(), ENDED_KEPT_S + 3) == ()
