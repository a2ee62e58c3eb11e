"""How many inputs of a map go into one request."""

from __future__ import annotations

from glowplug.client.batching import (
    GROWTH,
    IN_FLIGHT_FIRST,
    IN_FLIGHT_MAX,
    RAMP_S,
    BatchSizer,
    fits,
)
from glowplug_contracts.messages.http import BATCH_BYTES_MAX, BATCH_INPUTS_MAX
from hypothesis import given
from hypothesis import strategies as st


def learned(run_ms: float, times: int = 5, result_bytes: int = 10) -> BatchSizer:
    sizer = BatchSizer()
    for _ in range(times):
        sizer.ended(run_ms, result_bytes)
        sizer.learned()
    return sizer


def test_inputs_go_one_by_one_until_something_is_known():
    assert BatchSizer().size == 1


def test_a_batch_takes_about_fifty_milliseconds():
    assert learned(10.0).size == 5
    assert learned(1.0).size == 50
    assert learned(500.0).size == 1


def test_no_ops_fill_whole_batches_and_grow_in_steps():
    assert learned(0.001, times=1).size == min(GROWTH, BATCH_INPUTS_MAX)
    assert learned(0.001).size == BATCH_INPUTS_MAX


def test_large_results_keep_batches_small():
    assert learned(0.001, result_bytes=512 * 1024).size == 2


def test_while_nothing_comes_back_more_and_more_single_inputs_go_out():
    sizer = BatchSizer()
    sizer.sent(0.0)
    assert sizer.in_flight_before_answers(0.0) == IN_FLIGHT_FIRST
    assert sizer.in_flight_before_answers(RAMP_S) == 2 * IN_FLIGHT_FIRST
    assert sizer.in_flight_before_answers(1000.0) == IN_FLIGHT_MAX
    assert not sizer.may_send(IN_FLIGHT_FIRST, 0.0)


def test_a_later_map_starts_from_what_an_earlier_one_measured():
    later = BatchSizer(learned(10.0).measured)
    assert later.size == 5
    assert later.may_send(IN_FLIGHT_FIRST, 0.0)
    assert BatchSizer().measured is None


@given(
    st.lists(st.tuples(st.floats(0, 1e7, allow_nan=False), st.integers(0, 10**9)), max_size=50),
    st.integers(0, 1000),
)
def test_sizes_and_numbers_in_flight_keep_their_bounds(outcomes, out):
    sizer = BatchSizer()
    for run_ms, size in outcomes:
        sizer.ended(run_ms, size)
        sizer.learned()
        assert 1 <= sizer.size <= BATCH_INPUTS_MAX
    assert not (sizer.may_send(out, 1e9) and out >= IN_FLIGHT_MAX)


def test_one_input_always_fits_and_no_batch_passes_its_bytes():
    assert fits(0, 0, 10 * BATCH_BYTES_MAX, 1)
    assert fits(1, 100, BATCH_BYTES_MAX - 100, 2)
    assert not fits(1, 100, BATCH_BYTES_MAX - 99, 2)
    assert not fits(2, 0, 1, 2)
