"""Batches of which some events failed: only these stay, and the runner's word is checked."""

from __future__ import annotations

import json

import pytest
from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, RetryPolicy, State
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.triggered import triggered_record
from glowplug_worker.batches import failed_items, keep_items
from glowplug_worker.records import finish

from tests.support.builders_events import a_trigger, stored


def a_batch(count: int = 4, **retry: object) -> InvocationRecord:
    trigger = a_trigger(batch=10, retry=RetryPolicy(**retry))
    return triggered_record(trigger, "inv_1", [stored(str(n)) for n in range(count)], 1.0)


def items_failed(*named: object) -> RemoteError:
    return RemoteError(
        code="function.items_failed",
        type="BatchFailedError",
        message="m",
        details={"failed_items": list(named)},
    )


def left(record: InvocationRecord) -> list[str]:
    return [each["id"] for each in json.loads(record.input.args.data)["args"][0]]


def test_only_what_failed_stays_and_comes_back_as_often_as_it_may() -> None:
    record = a_batch(max_retries=1, retry_for=("KeyError",))
    first = finish(record, InputOutcome(state=State.FAILED, error=items_failed(1, 3)), 5.0)
    assert (first.state, first.events, left(first)) == (State.RETRY_WAIT, 2, ["1", "3"])
    second = finish(first, InputOutcome(state=State.FAILED, error=items_failed(1)), 6.0)
    assert (second.state, second.events, left(second)) == (State.FAILED, 1, ["3"])
    assert json.loads(second.input.args.data).keys() == {"takes", "args", "kwargs"}


def test_a_batch_that_works_keeps_its_input() -> None:
    record = a_batch()
    ended = finish(record, InputOutcome(state=State.SUCCEEDED), 5.0)
    assert (ended.state, ended.input) == (State.SUCCEEDED, record.input)


@pytest.mark.parametrize(
    "named",
    [[], [4], [-1], ["1"], [1, 1], [0, 1, 2, 3, 0], [True, 1], [1.0], "0", None],
)
def test_nonsense_of_the_runner_fails_the_whole_batch(named) -> None:
    error = RemoteError(
        code="function.items_failed", type="x", message="m", details={"failed_items": named}
    )
    assert failed_items(a_batch(), error) == ()


def test_other_errors_and_other_invocations_name_no_items() -> None:
    assert failed_items(a_batch(), None) == ()
    other = RemoteError(
        code="function.failed", type="x", message="m", details={"failed_items": [0]}
    )
    assert failed_items(a_batch(), other) == ()
    single = triggered_record(a_trigger(), "inv_1", [stored()], 1.0)
    assert failed_items(single, items_failed(0)) == ()


def test_all_failed_is_the_same_record() -> None:
    record = a_batch(2)
    assert keep_items(record, (0, 1)) is record
