"""From inside a container: other functions, streams and durable work, over the runner's door."""

from __future__ import annotations

import sys

import pytest

from tests.e2e.conftest import APPS


@pytest.fixture(scope="module")
def inside(platform):
    sys.path.insert(0, str(APPS))
    try:
        import inside

        yield inside
    finally:
        sys.path.remove(str(APPS))


def test_a_function_calls_another(inside):
    assert inside.asks_another.remote(4) == 9


def test_an_async_function_calls_others_at_once(inside):
    assert inside.asks_others_at_once.remote([1, 2, 3]) == [2, 4, 6]


def test_threads_of_a_function_call_others(inside):
    assert inside.asks_from_threads.remote([1, 2, 3]) == {1: 2, 2: 4, 3: 6}


def test_a_function_maps_another_over_many_inputs(inside):
    doubled, sums, caught, raised = inside.maps_over_many.remote(200)
    assert doubled == [2 * value for value in range(200)]
    assert sums == [3, 7]
    assert caught == ["4", "no 3", "16"]
    assert raised == "no 3"


def test_an_async_function_maps_and_leaves_early(inside):
    assert inside.maps_asynchronously.remote([1, 2, 3]) == ([2, 4, 6], 0)


def test_the_others_exception_arrives_as_itself(inside):
    assert inside.hears_an_exception.remote("bread") == "no bread"


def test_items_stream_through_the_door(inside):
    assert inside.sums_a_stream.remote(40, 100_000) == sum(range(40)) + 40 * 100_000


def test_large_arguments_and_results_pass(inside):
    assert inside.sends_much.remote(3_000_000) == 3_000_000


def test_durable_work_is_put_and_its_result_read(inside):
    task_id, result, doubled, status = inside.puts_work.remote(20)
    assert (result, doubled, status) == (21, 40, "COMPLETE")
    assert task_id.startswith("inv_")


def test_no_credential_is_seen_inside(inside, platform):
    environment, descriptors = inside.what_is_seen.remote()
    internal = [
        path.read_text().strip() for path in platform.data.rglob("*token*") if path.is_file()
    ]
    secrets = {platform.token, *internal} - {""}
    assert secrets, "the control: there are tokens to look for"
    for value in (*environment, *environment.values()):
        assert not any(secret in value for secret in secrets)
    assert not [name for name in environment if "TOKEN" in name]
    assert not [path for path in descriptors if str(platform.data) in path]
