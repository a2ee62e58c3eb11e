"""Ids that derive from work, and how long its record is kept."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, WorkspaceId, check_id, derived
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    State,
)
from glowplug_contracts.messages.record import (
    ATTEMPTS_KEPT,
    HEADER_ABOUT,
    HEADER_KEY,
    HEADER_KEY_LIMIT,
    HEADER_RATE,
    KEEP_FOR_OTHERS_S,
    CallbackState,
    InvocationRecord,
    KeyLimit,
    RateLimit,
    RecordAbout,
    about,
    attempts_after,
    callback_due,
    is_dead_letter,
    kept_s,
    ordered_by,
    record_headers,
)

A_RECORD = InvocationRecord(
    invocation_id=derived(DEFAULT_WORKSPACE, "test", "a"),
    workspace=DEFAULT_WORKSPACE,
    deployment_id="dep_00000000000000000000000001",  # type: ignore[arg-type]
    input=Input(args=Payload(format=Format.JSON, data=b"{}")),
)


def _with(**changes: object) -> InvocationRecord:
    return msgspec.structs.replace(A_RECORD, **changes)


def test_the_same_work_derives_the_same_id_and_no_other_does() -> None:
    made = {
        derived(WorkspaceId(workspace), kind, key)
        for workspace in ("default", "other", "w" * 200)
        for kind in ("event", "schedule")
        for key in ("", "a", "a/b", "ä" * 5000, "\udc80")
    }
    assert len(made) == 3 * 2 * 5
    assert all(check_id("invocation", one) == one for one in made)
    again = derived(DEFAULT_WORKSPACE, "event", "trigger/source/1")
    assert again == derived(DEFAULT_WORKSPACE, "event", "trigger/source/1")


def test_a_kind_and_a_key_can_not_be_shifted_into_each_other() -> None:
    assert derived(DEFAULT_WORKSPACE, "ab", "c") != derived(DEFAULT_WORKSPACE, "a", "bc")
    with pytest.raises(ValueError, match="one word"):
        derived(DEFAULT_WORKSPACE, "a\0b", "c")


def test_an_id_never_changes_meaning() -> None:
    # Stored records are found by it: a change of the hash would run work again.
    assert derived(DEFAULT_WORKSPACE, "event", "t/s/1") == "inv_7CGHENPXB59SVW876AJ9KF85S5"


def test_what_has_not_ended_is_kept_for_ever_and_what_has_as_long_as_somebody_needs_it() -> None:
    assert kept_s(A_RECORD, 100.0) == 0.0
    assert kept_s(_with(state=State.SUCCEEDED, keep_result_s=60.0), 100.0) == 60.0
    assert kept_s(_with(state=State.SUCCEEDED, keep_result_s=0.0), 100.0) == 1.0
    keyed = _with(state=State.SUCCEEDED, keep_result_s=60.0, idempotent_until=1000.0)
    assert kept_s(keyed, 100.0) == 900.0
    limited = _with(state=State.FAILED, keep_result_s=60.0, rate=RateLimit(count=1, period_s=3600))
    assert kept_s(limited, 100.0) == 3600.0
    awaited = _with(state=State.FAILED, keep_result_s=60.0, then=(A_RECORD.invocation_id,))
    assert kept_s(awaited, 100.0) == KEEP_FOR_OTHERS_S


@pytest.mark.parametrize(
    ("state", "dead"),
    [
        (State.SUCCEEDED, False),
        (State.CANCELLED, False),
        (State.RUNNING, False),
        (State.FAILED, True),
        (State.TIMED_OUT, True),
        (State.EXPIRED, True),
        (State.DEAD, True),
    ],
)
def test_dead_letters_are_kept_for_their_own_time(state: State, dead: bool) -> None:
    record = _with(state=state, dead_letter=True, dead_letter_keep_s=500.0, keep_result_s=5.0)
    assert is_dead_letter(record) is dead
    if state is not State.RUNNING:
        assert kept_s(record, 0.0) == (500.0 if dead else 5.0)


def test_headers_carry_a_key_as_a_hash_and_only_what_is_said() -> None:
    plain = record_headers(A_RECORD)
    assert HEADER_KEY not in plain
    assert HEADER_RATE not in plain
    keyed = _with(
        key=KeyLimit(key="résumé\r\n: x", limit=2), rate=RateLimit(count=10, period_s=60.0)
    )
    headers = record_headers(keyed)
    assert headers[HEADER_KEY].isalnum()
    assert headers[HEADER_KEY].isascii()
    assert headers[HEADER_KEY_LIMIT] == "2"
    assert headers[HEADER_RATE] == "10/60.0"


def test_the_order_of_acceptance_is_the_first_words_sequence() -> None:
    assert ordered_by(A_RECORD, 7) == 7
    assert ordered_by(_with(order=7), 12) == 7


ERROR = RemoteError(code="function.failed", type="ValueError", message="no " * 500)


def test_what_lists_show_travels_in_one_header_of_ascii() -> None:
    record = _with(
        name="größe",
        tags={"ein": "schlüssel\r\nX: y"},
        state=State.FAILED,
        ended_at=100.0,
        dead_letter=True,
        outcome=InputOutcome(state=State.FAILED, error=ERROR, run_ms=3.5),
    )
    text = record_headers(record)[HEADER_ABOUT]
    assert text.isascii()
    assert "\n" not in text
    found = msgspec.json.decode(text, type=RecordAbout)
    assert found == about(record)
    assert (found.letter, found.error_type, found.run_ms) == (True, "ValueError", 3.5)
    assert found.gone_at == 100.0 + record.dead_letter_keep_s


def test_attempts_are_lines_cut_and_bounded() -> None:
    record = _with(state=State.RUNNING, attempt=1, started_at=5.0)
    for number in range(1, ATTEMPTS_KEPT + 10):
        running = msgspec.structs.replace(record, attempt=number)
        lines = attempts_after(running, State.FAILED, ERROR, 6.0)
        record = msgspec.structs.replace(record, attempts=lines)
    assert len(record.attempts) == ATTEMPTS_KEPT
    assert record.attempts[-1].number == ATTEMPTS_KEPT + 9
    assert (record.attempts[-1].started_at, record.attempts[-1].ended_at) == (5.0, 6.0)
    assert len(record.attempts[-1].error) < len(ERROR.message)
    waiting = msgspec.structs.replace(record, state=State.RETRY_WAIT)
    assert attempts_after(waiting, State.FAILED, ERROR, 7.0) == record.attempts  # none ran


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"state": State.RUNNING}, False),
        ({"state": State.SUCCEEDED}, True),
        ({"state": State.SUCCEEDED, "callback": CallbackState(state="waiting")}, True),
        ({"state": State.SUCCEEDED, "callback": CallbackState(state="delivered")}, False),
        ({"state": State.DEAD, "callback": CallbackState(state="failed")}, False),
        ({"state": State.DEAD, "callback_url": ""}, False),
    ],
)
def test_somebody_is_told_of_an_end_until_told_or_given_up(
    changes: dict[str, object], due: bool
) -> None:
    assert callback_due(_with(**({"callback_url": "https://x"} | changes))) is due
