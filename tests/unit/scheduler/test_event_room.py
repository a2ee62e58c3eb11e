"""Which events make room for new ones."""

from __future__ import annotations

from glowplug_contracts.messages.event import RouterPosition
from glowplug_scheduler.event_room import TRIM_FROM, TRIM_TO, trim_before
from hypothesis import given
from hypothesis import strategies as st

ALL = [RouterPosition(oldest=10**9)]


def a_stream(share: float, first: int = 1, last: int = 1000) -> dict[str, int]:
    most = 1_000_000
    return {
        "bytes": round(share * most),
        "max_bytes": most,
        "first_sequence": first,
        "last_sequence": last,
    }


def test_while_there_is_room_nothing_goes():
    assert trim_before(a_stream(TRIM_FROM - 0.01), ALL) == 0
    assert trim_before(a_stream(1.0) | {"max_bytes": -1}, ALL) == 0


def test_of_equal_events_as_many_go_as_bring_it_down_to_the_mark():
    before = trim_before(a_stream(1.0), ALL)
    assert 1 - (before - 1) / 1000 == TRIM_TO


def test_what_a_router_has_not_handled_stays():
    assert (
        trim_before(a_stream(1.0), [RouterPosition(oldest=1000), RouterPosition(oldest=40)]) == 40
    )
    assert trim_before(a_stream(1.0), [RouterPosition(oldest=1000), None]) == 0
    assert trim_before(a_stream(1.0, first=41), [RouterPosition(oldest=41)]) == 0
    assert trim_before(a_stream(1.0), []) == 0


@given(
    st.floats(0, 1),
    st.integers(1, 500),
    st.integers(0, 500),
    st.lists(st.integers(0, 1200), min_size=1, max_size=4),
)
def test_never_beyond_what_all_have_handled_nor_the_end(share, first, more, oldest):
    stream = a_stream(share, first, first + more)
    before = trim_before(stream, [RouterPosition(oldest=each) for each in oldest])
    assert before == 0 or first < before <= min(*oldest, first + more + 1, 10**9)
