"""Mapping through a fake gateway: order, laziness, errors, lost connections."""

from __future__ import annotations

import itertools

import glowplug
import pytest
from glowplug.client.mapping import WINDOW_INPUTS
from glowplug_contracts.messages.http import BATCH_INPUTS_MAX

from tests.support.fake_gateway import FakeGateway


@glowplug.function
def square(number):
    if number == 13:
        raise ValueError("unlucky")
    return number * number


@glowplug.function
def add(left, right):
    return left + right


def test_a_thousand_results_come_in_order_in_few_requests(gateway: FakeGateway):
    assert list(square.map([1])) == [1]
    gateway.batches.clear()
    numbers = [n for n in range(1001) if n != 13]
    assert list(square.map(numbers)) == [n * n for n in numbers]
    indexes = [one.index for batch in gateway.batches for one in batch.inputs]
    assert sorted(indexes) == list(range(1000))
    assert len(gateway.batches) < 100


def test_one_failing_input_raises_at_its_place(gateway: FakeGateway):
    seen = []
    with pytest.raises(ValueError, match="unlucky"):
        seen.extend(square.map(range(20)))
    assert seen == [n * n for n in range(13)]


def test_exceptions_sit_in_their_slot_when_asked_for(gateway: FakeGateway):
    results = list(square.map(range(15), return_exceptions=True))
    assert isinstance(results[13], ValueError)
    assert results[14] == 196


def test_an_endless_iterator_is_pulled_only_so_far(gateway: FakeGateway):
    pulled = 0

    def endless():
        nonlocal pulled
        for number in itertools.count(20):
            pulled = number
            yield number

    results = square.map(endless())
    assert [next(results) for _ in range(100)] == [n * n for n in range(20, 120)]
    results.close()
    assert pulled <= 20 + 100 + WINDOW_INPUTS + BATCH_INPUTS_MAX


def test_unordered_results_are_all_there(gateway: FakeGateway):
    assert sorted(square.map(range(10), order_outputs=False)) == [n * n for n in range(10)]


def test_starmap_and_several_iterables_spread_arguments(gateway: FakeGateway):
    assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert list(add.map([1, 2], [10, 20])) == [11, 22]


def test_an_empty_map_is_empty(gateway: FakeGateway):
    assert list(square.map([])) == []


def test_a_connection_lost_in_the_middle_repeats_the_batch_and_counts_each_input_once(
    gateway: FakeGateway,
):
    gateway.break_map_after = 5
    assert list(square.map(range(12))) == [n * n for n in range(12)]
    ids = [batch.invocation_id for batch in gateway.batches]
    assert len(ids) > len(set(ids))


def test_leaving_the_loop_cancels_what_is_out(gateway: FakeGateway):
    list(square.map([1]))
    results = square.map(iter(range(20, 100_000)))
    next(results)
    gateway.hold.clear()
    results.close()
    gateway.hold.set()
    assert all(one.startswith("inv_") for one in gateway.cancelled)


def test_large_inputs_and_results_go_as_blobs(gateway: FakeGateway):
    big = "x" * 300_000
    assert list(add.map([big, "a"], ["y", "b"])) == [big + "y", "ab"]
    assert any(one.args.blob for batch in gateway.batches for one in batch.inputs)


async def test_async_inputs_are_mapped_in_order(gateway: FakeGateway):
    async def numbers():
        for number in range(12):
            yield number

    assert [one async for one in square.map.aio(numbers())] == [n * n for n in range(12)]
