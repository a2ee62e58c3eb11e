"""Durable work as a program sees it: order, time, retries, cancelling, progress, keys."""

from __future__ import annotations

import itertools
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import glowplug
import pytest
from glowplug import errors

from tests.e2e.conftest import APPS
from tests.support.eventually import eventually_sync


@pytest.fixture(scope="module")
def queues(platform) -> Any:
    sys.path.insert(0, str(APPS))
    try:
        import queues

        yield queues
    finally:
        sys.path.remove(str(APPS))


@pytest.fixture
def shown(platform) -> Any:
    return lambda task: platform.http("GET", f"/api/v1/tasks/{task.task_id}").json()


def ended(task: Any) -> bool:
    return task.status() not in {"PENDING", "RUNNING", "RETRY"}


def test_priorities_overtake_hundreds_that_wait_for_one_slot(queues, shown):
    blocker = queues.held.put(0)
    eventually_sync(lambda: blocker.status() == "RUNNING", within_s=60)
    wanted = [(n * 7) % 21 - 10 for n in range(300)]
    tasks = [queues.held.options(priority=p).put(n + 1) for n, p in enumerate(wanted)]
    blocker.cancel()
    assert [task.result(timeout=120) for task in tasks] == [n + 1 for n in range(300)]
    began = sorted(range(300), key=lambda n: shown(tasks[n])["started_at"])
    assert began == sorted(range(300), key=lambda n: -wanted[n])


def test_a_delayed_task_waits_for_its_time(queues, shown):
    later = queues.number.options(delay=3600).put(1)
    soon = queues.number.options(eta=datetime.now(UTC) + timedelta(seconds=1)).put(2)
    assert soon.result(timeout=60) == 2
    told = shown(soon)
    assert told["started_at"] >= told["accepted_at"] + 0.9
    assert later.status() == "PENDING"
    assert 3500 < shown(later)["due_at"] - time.time() <= 3600
    later.cancel()
    assert later.status() == "CANCELLED"


def test_what_has_not_started_in_time_expires(queues):
    blocker = queues.held.put(0)
    eventually_sync(lambda: blocker.status() == "RUNNING", within_s=60)
    waiting = queues.held.options(ttl=0.2).put(1)
    eventually_sync(lambda: waiting.status() == "EXPIRED")
    with pytest.raises(errors.GlowplugError, match="expired"):
        waiting.result(timeout=10)
    blocker.cancel()


@pytest.mark.parametrize(
    ("name", "kind", "attempts"),
    [("sold out", "SoldOutError", 3), ("key", "KeyError", 1), ("value", "ValueError", 1)],
)
def test_subclasses_are_retried_and_what_is_excluded_is_not(queues, shown, name, kind, attempts):
    task = queues.fails_as.put(name)
    with pytest.raises(Exception, match=f"attempt {attempts}") as caught:
        task.result(timeout=60)
    assert type(caught.value).__name__ == kind
    assert shown(task)["attempt"] == attempts


def test_retries_pause_with_backoff_and_jitter(queues):
    task = queues.third_time.put()
    assert task.result(timeout=60) == 3


def test_a_time_out_kills_c_code_and_counts_as_a_try(queues, shown):
    task = queues.blocks_in_c.put()
    with pytest.raises(errors.FunctionTimeoutError):
        task.result(timeout=120)
    assert task.status() == "TIMEOUT"
    assert shown(task)["attempt"] == 2


def test_cancelling_what_runs_lets_its_finally_run(platform, queues):
    task = queues.cleans_up.put()
    eventually_sync(lambda: task.progress() == (0.25, "began"), within_s=60)
    task.cancel()
    assert task.status() == "CANCELLED"
    with pytest.raises(errors.CallCancelledError):
        task.result(timeout=10)
    container = eventually_sync(lambda: _prints(platform, task))
    assert f"cleaned up {task.task_id}" in container
    # It listened, so its container lives on and takes the next one.
    assert platform.containers("cleans_up")


def _prints(platform: Any, task: Any) -> str:
    lines = platform.http("GET", f"/api/v1/logs?deployment=cleans_up&invocation={task.task_id}")
    text = lines.body.decode()
    return text if "cleaned up" in text else ""


def test_what_does_not_listen_is_killed_after_a_grace(platform, queues):
    task = queues.never_listens.put()
    eventually_sync(lambda: task.progress() == (0.5, "deaf"), within_s=60)
    before = {one["container_id"] for one in platform.containers("never_listens")}
    task.cancel()
    assert task.status() == "CANCELLED"
    eventually_sync(
        lambda: not before & {c["container_id"] for c in platform.containers("never_listens")}
    )
    assert task.status() == "CANCELLED"


def test_the_last_word_of_progress_is_kept(platform, queues, shown):
    task = queues.tells.put()
    assert task.result(timeout=60) == "told"
    assert task.progress() == (1.0, "three quarters")
    assert shown(task)["progress"] == 100


def test_an_idempotency_key_is_one_task(queues):
    said = {"idempotency_key": f"k-{time.time_ns()}"}
    # Equal arguments made in different ways: their pickles differ, what they mean does not.
    first = queues.number.options(**said).put({"a": "xy", "b": "xy"})
    again = queues.number.options(**said).put({"b": "xy", "a": "xy"})
    assert again == first
    with pytest.raises(errors.IdempotencyKeyReusedError) as caught:
        queues.number.options(**said).put({"a": "other"})
    assert caught.value.details["task_id"] == first.task_id
    assert first.result(timeout=60) == {"a": "xy", "b": "xy"}


def test_celerys_words_mean_ours(queues, shown):
    assert queues.number.delay(3).result(timeout=60) == 3
    task = queues.number.apply_async((4,), countdown=3600, expires=60, priority=2)
    told = shown(task)
    assert told["priority"] == 2
    assert told["expires_at"] == pytest.approx(told["due_at"] + 60)
    task.cancel()


def test_options_are_honoured_at_the_webs_door(platform, queues, shown):
    queues.number.deploy()
    import urllib.request

    request = urllib.request.Request(
        f"{platform.url}/taskqueue/number",
        b'{"value": 5}',
        {
            "Authorization": f"Bearer {platform.token}",
            "Glowplug-Options": '{"delay_s": 3600, "tags": {"team": "a"}, "priority": -4}',
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        task = glowplug.Task(__import__("json").load(answer)["task_id"])
    told = shown(task)
    assert (told["priority"], told["tags"]) == (-4, {"team": "a"})
    assert told["due_at"] is not None
    task.cancel()


def spans(shown: Any, tasks: list[Any]) -> list[tuple[float, float]]:
    told = [shown(task) for task in tasks]
    return [(one["started_at"], one["ended_at"]) for one in told]


def test_of_a_key_one_runs_at_a_time_and_in_order(queues, shown):
    mine = [queues.beside.options(fifo_key="account-1").put(n) for n in range(8)]
    others = [queues.beside.put(n) for n in range(8)]
    assert [task.result(timeout=120) for task in mine + others] == [*range(8), *range(8)]
    ran = spans(shown, mine)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ran))


def test_of_a_key_no_more_run_than_its_limit(queues, shown):
    said = {"concurrency_key": "customer-7", "concurrency_limit": 2}
    tasks = [queues.beside.options(**said).put(n) for n in range(12)]
    assert [task.result(timeout=120) for task in tasks] == list(range(12))
    ran = spans(shown, tasks)
    for begin, _ in ran:
        assert sum(start <= begin < end for start, end in ran) <= 2


def test_a_rate_limit_holds_in_every_second(queues, shown):
    tasks = [queues.slowly.put(n) for n in range(6)]
    assert [task.result(timeout=120) for task in tasks] == list(range(6))
    began = sorted(start for start, _ in spans(shown, tasks))
    # Handed two a second; between hand and start lies a moment, which may be longer for one than another.
    assert began[4] - began[0] > 1.0
