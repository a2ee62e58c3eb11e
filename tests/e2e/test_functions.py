"""What a Python program sees: results, errors, order, streams, large data, scale."""

from __future__ import annotations

import asyncio
import itertools
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import glowplug
import pytest
from glowplug import errors

from tests.support.eventually import eventually_sync

MIB = 1024 * 1024


def test_a_call_runs_elsewhere_with_the_projects_helper_modules(basics):
    assert basics.triple.remote(14) == 42
    assert basics.triple.local(14) == 42


@pytest.mark.parametrize("value", [0, False, "", [], None, {}, 0.0, b""])
def test_falsy_results_are_results(basics, value):
    assert basics.echo.remote(value) == value
    assert type(basics.echo.remote(value)) is type(value)


def test_fifty_megabytes_go_there_and_back(basics):
    data = bytes(range(256)) * (50 * MIB // 256)
    assert basics.echo_large.remote(data) == data


def test_the_original_exception_comes_back_with_arguments_cause_and_remote_frames(basics):
    with pytest.raises(basics.HouseError) as caught:
        basics.raises_house_error.remote()
    assert caught.value.args == ("kitchen", 2)
    assert caught.value.room == "kitchen"
    assert isinstance(caught.value.__cause__, KeyError)
    shown = "".join(__import__("traceback").format_exception(caught.value))
    assert 'raise HouseError("kitchen", 2) from err' in shown
    assert "glowplug_worker" not in shown
    assert "runner/" not in shown


def test_a_failed_import_reaches_the_caller_with_its_traceback(basics):
    import import_fails

    with pytest.raises(errors.StartupError, match="can't be imported remotely"):
        import_fails.never.remote()


def test_a_thousand_inputs_come_back_in_order(basics):
    assert list(basics.triple.map(range(1000))) == [3 * n for n in range(1000)]


def test_starmap_spreads_arguments(basics):
    assert list(basics.echo.starmap([(1,), (2,)])) == [1, 2]


def test_one_failing_input_raises_or_sits_in_its_slot(basics):
    with pytest.raises(ValueError, match="seven is not allowed"):
        list(basics.fails_on_seven.map(range(20)))
    found = list(basics.fails_on_seven.map(range(20), return_exceptions=True))
    assert [n for n in found if not isinstance(n, Exception)] == [n for n in range(20) if n != 7]
    assert isinstance(found[7], ValueError)


def test_an_infinite_iterator_keeps_memory_bounded(basics):
    drawn = itertools.count()
    taken = []
    for result in basics.echo.map("x" * 1000 for _ in drawn):
        taken.append(result)
        if len(taken) == 2000:
            break
    # What was drawn ahead of what was taken is bounded by the batches in flight.
    assert next(drawn) - len(taken) < 64 * 256
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 1024 * 1024  # KiB


def test_a_generator_streams(basics):
    assert list(basics.count_to.remote(200)) == list(range(200))


def test_a_generators_first_item_comes_before_its_last_is_made(basics):
    items = iter(basics.count_to.remote(10**9))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()


async def test_awaitable_twins(basics):
    results = await asyncio.gather(*(basics.triple.remote.aio(n) for n in range(20)))
    assert results == [3 * n for n in range(20)]


def test_spawn_gives_a_call_that_any_program_can_ask(basics):
    call = basics.sleeps.spawn(0.2)
    assert call.get(timeout=60) == "slept"
    again = glowplug.FunctionCall.from_id(call.id)
    assert again.get(timeout=60) == "slept"


def test_a_task_queue_runs_and_retries(basics):
    task = basics.add.put(2, 3)
    assert task.result(timeout=60) == 5
    retried = basics.succeeds_at_the_third.put()
    assert retried.result(timeout=60) == 3


def test_a_time_out_ends_c_code(basics):
    with pytest.raises(errors.FunctionTimeoutError):
        basics.loops_in_c.remote()


def test_a_killed_runner_is_a_typed_error_and_the_next_call_works(basics):
    with pytest.raises(errors.ContainerCrashedError, match="SIGKILL"):
        basics.dies.remote()


def test_scales_from_zero_and_back(platform, basics):
    """Seen through the list of containers, level-triggered; nothing is timed."""
    assert platform.containers("brief") == []
    assert basics.brief.remote(1) == 2
    eventually_sync(lambda: len(platform.containers("brief")) == 1)
    eventually_sync(lambda: platform.containers("brief") == [], within_s=60)
    assert basics.brief.remote(2) == 3


def test_never_more_containers_than_max(platform, basics):
    most = 0
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(basics.slow_where.remote, 0.4) for _ in range(8)]
        while not all(call.done() for call in calls):
            most = max(most, len(platform.containers("slow_where")))
    assert all(call.result() for call in calls)
    assert most == 2


def test_a_closure_ships_by_value(platform, basics):
    base = 100

    @glowplug.function(cpu=0.01, memory=64)
    def add_base(value):
        return value + base

    assert add_base.remote(1) == 101


def test_calls_from_many_threads_do_not_mix(basics):
    wrong = []

    def work(number):
        if basics.triple.remote(number) != 3 * number:
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
