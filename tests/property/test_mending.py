"""When a stream counts as silent, and when a broker is restarted for it: whatever comes in whatever order."""

from __future__ import annotations

from glowplug_local.mending import DOUBT_S, PAUSE_FIRST_S, PAUSE_MAX_S, ROOM_BYTES, Mending
from glowplug_runtime.silence import FORGOTTEN_S, SILENT_S, Silences
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["unanswered", "unanswered", "answered", "reconnected", "look"]),
        st.sampled_from(["RECORDS_0", "KV_maps"]),
        st.floats(0.0, 20.0),
    )
)
LOOKS = st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.5, 40.0)), max_size=200)
TRY_S = 3.0


@given(steps=STEPS)
def test_a_stream_is_silent_only_while_nothing_was_answered_for_so_long(steps):
    silences, now = Silences(), 0.0
    quiet_since: dict[str, float] = {}
    asked_last: dict[str, float] = {}
    for what, stream, passed in steps:
        now += passed
        if what == "unanswered":
            asked_at = max(0.0, now - TRY_S)
            if now - asked_last.get(stream, now) >= FORGOTTEN_S:
                quiet_since.pop(stream, None)
            quiet_since.setdefault(stream, asked_at)
            asked_last[stream] = now
            silences.unanswered(stream, asked_at, now)
        elif what == "answered":
            quiet_since.pop(stream, None)
            silences.answered(stream)
        elif what == "reconnected":
            quiet_since.clear()
            silences.reconnected()
        for name in silences.silent(now):
            assert asked_last[name] - quiet_since[name] >= SILENT_S
            assert now - asked_last[name] < FORGOTTEN_S


def test_two_unanswered_tries_in_a_row_are_noticed():
    silences = Silences()
    silences.unanswered("RECORDS_0", 0.0, TRY_S)
    assert silences.silent(TRY_S) == ()
    silences.unanswered("RECORDS_0", TRY_S, 2 * TRY_S)
    assert silences.silent(2 * TRY_S) == ("RECORDS_0",)
    silences.answered("RECORDS_0")
    assert silences.silent(2 * TRY_S) == ()


@given(looks=LOOKS)
def test_a_broker_is_restarted_with_room_only_and_ever_more_rarely(looks):
    mending, now = Mending(), 1000.0
    restarts: list[float] = []
    silent_since, was_full = 0.0, False
    for silent, room, passed in looks:
        now += passed
        decision = mending.step(["RECORDS_0"] * silent, ROOM_BYTES if room else ROOM_BYTES - 1, now)
        if not silent:
            assert not decision
            silent_since, was_full = 0.0, False
            continue
        silent_since, was_full = silent_since or now, was_full or not room
        if decision == "restart":
            assert room
            assert was_full or now - silent_since >= DOUBT_S
            assert not restarts or now - restarts[-1] >= PAUSE_FIRST_S
            restarts.append(now)
        elif room and (was_full or now - silent_since >= DOUBT_S):
            # It waits for the last one to show, and no longer than this.
            assert now - restarts[-1] < PAUSE_MAX_S


def test_a_full_disk_is_said_once_and_the_restart_comes_with_the_room():
    mending = Mending()
    assert mending.step(["A"], 0, 1.0) == "say_full"
    assert mending.step(["A"], 0, 3.0) == ""
    assert mending.step(["A"], ROOM_BYTES, 5.0) == "restart"
    assert mending.step(["A"], ROOM_BYTES, 7.0) == ""
    assert mending.step(["A"], ROOM_BYTES, 5.0 + PAUSE_FIRST_S) == "restart"
    assert mending.step(["A"], ROOM_BYTES, 6.0 + 2 * PAUSE_FIRST_S) == ""
    assert mending.step([], ROOM_BYTES, 100.0) == ""
    assert mending.step(["A"], 0, 200.0) == "say_full"
    assert mending.step(["A"], ROOM_BYTES, 201.0) == "restart"


def test_a_disk_that_is_only_slow_costs_no_restart_before_long():
    mending = Mending()
    assert mending.step(["A"], ROOM_BYTES, 1.0) == ""
    assert mending.step(["A"], ROOM_BYTES, DOUBT_S) == ""
    assert mending.step([], ROOM_BYTES, DOUBT_S + 0.5) == ""
    assert mending.step(["A"], ROOM_BYTES, DOUBT_S + 2.0) == ""
    assert mending.step(["A"], ROOM_BYTES, 2 * DOUBT_S + 2.0) == "restart"
