"""What becomes of durable records and failed tries."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.ids import ContainerId, WorkerId
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    RetryPolicy,
    State,
)
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_worker.attempts import decide_retry, pause_s, timed_out, trim_error
from glowplug_worker.progress import Throttled, spoken
from glowplug_worker.records import claim, expire, finish, lose
from hypothesis import given
from hypothesis import strategies as st

FAILED = RemoteError(
    code="function.failed",
    type="app.MyError",
    message="m",
    details={"mro": ["app.MyError", "ValueError", "Exception"]},
)


def a_record(**changes: object) -> InvocationRecord:
    payload = Payload(format=Format.JSON, data=b"1", size=1)
    base = {
        "invocation_id": "inv_1",
        "workspace": "default",
        "deployment_id": "dep_1",
        "input": Input(args=payload),
    }
    return InvocationRecord(**{**base, **changes})


def failed(error: RemoteError = FAILED) -> InputOutcome:
    return InputOutcome(state=State.FAILED, error=error)


def test_claims_for_one_worker_and_counts_the_attempt() -> None:
    claimed = claim(a_record(attempt=2, due_at=5.0), WorkerId("w"), ContainerId("c"), 9.0)
    assert (claimed.state, claimed.attempt, claimed.started_at) == (State.RUNNING, 3, 9.0)
    assert (claimed.worker_id, claimed.container_id, claimed.due_at) == ("w", "c", 0.0)


def test_expires_what_came_too_late() -> None:
    assert expire(a_record(), 9.0).state is State.EXPIRED


@pytest.mark.parametrize(
    ("policy", "tries", "delay"),
    [
        (RetryPolicy(), 1, None),
        (RetryPolicy(max_retries=2), 2, 0.0),
        (RetryPolicy(max_retries=2), 3, None),
        (RetryPolicy(max_retries=9, delay_s=2.0, backoff=3.0), 1, 2.0),
        (RetryPolicy(max_retries=9, delay_s=2.0, backoff=3.0), 3, 18.0),
        (RetryPolicy(max_retries=9, delay_s=2.0, backoff=3.0, max_delay_s=10), 3, 10),
        (RetryPolicy(max_retries=1, retry_for=("ValueError",)), 1, 0.0),
        (RetryPolicy(max_retries=1, retry_for=("MyError",)), 1, 0.0),
        (RetryPolicy(max_retries=1, retry_for=("KeyError",)), 1, None),
        (RetryPolicy(max_retries=1, no_retry_for=("ValueError",)), 1, None),
        (RetryPolicy(max_retries=1, no_retry_for=("KeyError",)), 1, 0.0),
        (RetryPolicy(max_retries=1, retry_for=("Exception",), no_retry_for=("MyError",)), 1, None),
        (RetryPolicy(max_retries=10**6, delay_s=1.0, backoff=10.0), 10**5, 600.0),
    ],
)
def test_retries_follow_the_policy(policy: RetryPolicy, tries: int, delay: float | None) -> None:
    assert decide_retry(policy, tries, FAILED) == delay


def test_a_result_that_cannot_be_sent_is_not_tried_again() -> None:
    error = RemoteError(code="function.bad_result", type="TypeError", message="m")
    assert decide_retry(RetryPolicy(max_retries=3), 1, error) is None


def test_a_failed_try_waits_for_its_retry_and_keeps_its_error() -> None:
    record = a_record(state=State.RUNNING, retry=RetryPolicy(max_retries=1, delay_s=4.0))
    again = finish(record, failed(), 100.0)
    assert (again.state, again.due_at, again.user_attempts) == (State.RETRY_WAIT, 104.0, 1)
    assert again.outcome == failed()
    over = finish(again, failed(), 200.0)
    assert (over.state, over.ended_at, over.outcome) == (State.FAILED, 200.0, failed())


def test_a_timeout_may_be_retried_by_either_of_its_names() -> None:
    retry = RetryPolicy(max_retries=1, retry_for=("TimeoutError",))
    record = a_record(state=State.RUNNING, retry=retry)
    assert finish(record, timed_out(0, 1.0, 1.0), 1.0).state is State.RETRY_WAIT
    none = a_record(state=State.RUNNING)
    assert finish(none, timed_out(0, 1.0, 1.0), 1.0).state is State.TIMED_OUT


def test_success_does_not_count_as_a_failed_try() -> None:
    done = finish(a_record(), InputOutcome(state=State.SUCCEEDED), 3.0)
    assert (done.state, done.user_attempts) == (State.SUCCEEDED, 0)


def test_a_crash_loop_ends_with_the_crash_as_its_error() -> None:
    crash = RemoteError(code="function.crashed", type="ContainerCrashedError", message="9")
    record = a_record(state=State.RUNNING)
    for lost in range(1, PLATFORM_RETRIES_MAX + 1):
        record = lose(record, crash, 50.0)
        assert (record.state, record.lost_attempts, record.due_at) == (State.RETRY_WAIT, lost, 50.0)
    dead = lose(record, crash, 60.0)
    assert dead.state is State.DEAD
    assert dead.outcome is not None
    assert dead.outcome.error == crash


def test_errors_fit_into_a_message_whatever_a_runner_sends() -> None:
    huge = RemoteError(
        code="c" * 999,
        type="t" * 9999,
        message="m" * 10**6,
        traceback="b" * 10**6,
        pickled=b"p" * 10**6,
        details={"mro": ["x" * 10**6]},
    )
    small = trim_error(huge)
    sizes = (len(small.code), len(small.type), len(small.message), len(small.traceback))
    assert sizes == (64, 256, 16 * 1024, 64 * 1024)
    assert small.pickled is None
    assert small.details == {"trimmed": True}
    assert trim_error(FAILED) == FAILED


@given(
    delay_s=st.floats(0, 1e4),
    backoff=st.floats(1, 50),
    cap=st.floats(0, 1e4),
    jitter=st.floats(0, 1),
    tries=st.integers(1, 10**6),
    seed=st.text(),
)
def test_a_pause_is_within_its_bounds_and_always_the_same(
    delay_s: float, backoff: float, cap: float, jitter: float, tries: int, seed: str
) -> None:
    policy = RetryPolicy(
        max_retries=1, delay_s=delay_s, backoff=backoff, max_delay_s=cap, jitter=jitter
    )
    whole_s = pause_s(msgspec.structs.replace(policy, jitter=0.0), tries, seed)
    pause = pause_s(policy, tries, seed)
    assert whole_s * (1 - jitter) - 1e-9 <= pause <= whole_s <= cap
    assert pause == pause_s(policy, tries, seed)


def test_jitter_spreads_what_failed_together() -> None:
    policy = RetryPolicy(max_retries=3, delay_s=10.0, jitter=1.0)
    pauses = [pause_s(policy, 1, f"inv_{n}") for n in range(1000)]
    assert min(pauses) < 0.2
    assert max(pauses) > 9.8
    assert 4.5 < sum(pauses) / len(pauses) < 5.5


class TestProgress:
    def test_the_first_word_goes_at_once_and_the_last_one_always(self) -> None:
        told = Throttled(1.0)
        first, second, last = (spoken(n / 10, "", 0.0) for n in (1, 2, 3))
        assert told.say(first, 10.0) == 0.0
        assert told.take(10.0) == first
        assert told.say(second, 10.25) == 0.75
        assert told.say(last, 10.5) is None
        assert told.take(11.0) == last
        assert told.take(11.0) is None
        assert told.last == last

    @given(st.floats(), st.text())
    def test_whatever_user_code_says_is_bounded(self, fraction: float, message: str) -> None:
        said = spoken(fraction, message * 100, 1.0)
        assert said.fraction == -1.0 or 0.0 <= said.fraction <= 1.0
        assert len(said.message) <= 1_000
