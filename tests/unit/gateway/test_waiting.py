"""Waiting: what replies, silence, disconnects and deadlines mean for a held call."""

from __future__ import annotations

import pytest
from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    InputOutcome,
    RemoteError,
    State,
)
from glowplug_gateway.waiting import (
    APPENDS_FAILED_MAX,
    CREDIT_STEP,
    DISCONNECT_GRACE_S,
    FRAMES_AHEAD_MAX,
    Append,
    AppendFailed,
    CancelAsked,
    Deliver,
    DeliverFrame,
    Disconnected,
    FrameHeard,
    FrameTaken,
    GiveUp,
    Joined,
    LostHeard,
    OutcomeHeard,
    Probe,
    ProbeAnswered,
    SendCancel,
    SendCredit,
    Submitted,
    Ticked,
    Waiting,
)

ID = InvocationId("inv_A")


def submitted(**kw) -> Submitted:
    return Submitted(**{"invocation_id": ID, "workspace": WorkspaceId("default"), "shard": 3} | kw)


def ok(index: int = 0) -> InputOutcome:
    return InputOutcome(index=index, state=State.SUCCEEDED)


def heard(*outcomes: InputOutcome, attempt: int = 1, frames: int = -1) -> OutcomeHeard:
    return OutcomeHeard(invocation_id=ID, attempt=attempt, outcomes=outcomes, frames=frames)


def lost(attempt: int, cause: str = "worker", error: RemoteError | None = None) -> LostHeard:
    return LostHeard(invocation_id=ID, attempt=attempt, cause=cause, error=error)


def held(**kw) -> Waiting:
    waiting = Waiting()
    assert waiting.step(submitted(**kw), 0.0) == (Append(ID, 1),)
    return waiting


def steps(waiting: Waiting, event, now: float = 0.0) -> tuple:
    decisions = tuple(waiting.step(event, now))
    waiting.check()
    return decisions


def test_the_first_outcome_answers_and_later_ones_are_ignored():
    waiting = held()
    assert steps(waiting, heard(ok())) == (Deliver(invocation_id=ID, outcomes=(ok(),), done=True),)
    assert steps(waiting, heard(ok(), attempt=2)) == ()


def test_a_batch_is_delivered_as_it_comes_without_repeats():
    waiting = held(indexes=(10, 11, 12))
    assert steps(waiting, heard(ok(11))) == (
        Deliver(invocation_id=ID, outcomes=(ok(11),), done=False),
    )
    assert steps(waiting, heard(ok(11), ok(10))) == (
        Deliver(invocation_id=ID, outcomes=(ok(10),), done=False),
    )
    assert steps(waiting, heard(ok(99))) == ()
    assert steps(waiting, heard(ok(12))) == (
        Deliver(invocation_id=ID, outcomes=(ok(12),), done=True),
    )


def test_a_lost_attempt_is_sent_again_until_the_platform_gave_up():
    waiting = held()
    for attempt in range(1, PLATFORM_RETRIES_MAX + 1):
        assert steps(waiting, lost(attempt)) == (Append(ID, attempt + 1),)
    (last,) = steps(waiting, lost(PLATFORM_RETRIES_MAX + 1))
    assert isinstance(last, GiveUp)
    assert (last.error.code, last.missing, last.state) == ("invocation.lost", (0,), State.FAILED)


def test_an_old_loss_does_not_touch_the_new_attempt():
    waiting = held()
    steps(waiting, lost(1))
    assert steps(waiting, lost(1)) == ()


def test_the_last_loss_is_told_with_what_the_worker_knew():
    crashed = RemoteError(code="function.crashed", type="ContainerCrashedError", message="signal 9")
    waiting = held()
    for attempt in range(1, PLATFORM_RETRIES_MAX + 1):
        steps(waiting, lost(attempt, "container", crashed))
    (last,) = steps(waiting, lost(PLATFORM_RETRIES_MAX + 1, "container", crashed))
    assert last.error == crashed


def test_a_failed_start_is_told_at_once():
    error = RemoteError(code="function.start_failed", type="ImportError", message="no torch")
    (decision,) = steps(held(), lost(1, "start_failed", error))
    assert isinstance(decision, GiveUp)
    assert decision.error == error


def test_old_calls_are_probed_each_second():
    waiting = held()
    assert steps(waiting, Ticked(), 0.9) == ()
    assert steps(waiting, Ticked(), 1.0) == (Probe(shard=3, invocation_ids=(ID,), asked_at=1.0),)
    assert steps(waiting, Ticked(), 1.5) == ()
    assert steps(waiting, Ticked(), 2.0) == (Probe(shard=3, invocation_ids=(ID,), asked_at=2.0),)


def answered(unknown: bool, asked_at: float, settled: bool = True) -> ProbeAnswered:
    return ProbeAnswered(
        asked=(ID,), unknown=(ID,) if unknown else (), settled=settled, asked_at=asked_at
    )


def test_sends_again_what_a_settled_dispatcher_does_not_know_twice_in_a_row():
    waiting = held()
    assert steps(waiting, answered(True, 1.0), 1.1) == ()
    assert steps(waiting, answered(False, 2.0), 2.1) == ()
    assert steps(waiting, answered(True, 3.0), 3.1) == ()
    assert steps(waiting, answered(True, 4.0), 4.1) == (Append(ID, 2),)


def test_an_unsettled_dispatcher_proves_nothing():
    waiting = held()
    for second in range(1, 6):
        assert steps(waiting, answered(True, second, settled=False), second + 0.1) == ()


def test_an_answer_to_a_question_before_the_resend_proves_nothing():
    waiting = held()
    steps(waiting, lost(1), 5.0)
    assert steps(waiting, answered(True, 4.9), 5.1) == ()
    assert steps(waiting, answered(True, 4.95), 5.1) == ()


def test_the_deadline_cancels_and_answers():
    cancel, gave_up = steps(held(deadline_s=2.0), Ticked(), 2.0)
    assert cancel == SendCancel(ID, 3)
    assert gave_up.error.code == "invocation.deadline"


def test_a_disconnected_caller_has_time_to_come_back():
    waiting = held()
    steps(waiting, Disconnected(ID), 1.0)
    steps(waiting, Joined(ID), 5.0)
    steps(waiting, Disconnected(ID), 6.0)
    assert not any(
        isinstance(d, SendCancel) for d in steps(waiting, Ticked(), 6.0 + DISCONNECT_GRACE_S - 0.1)
    )
    cancel, gave_up = steps(waiting, Ticked(), 6.0 + DISCONNECT_GRACE_S)
    assert cancel == SendCancel(ID, 3)
    assert not gave_up.answered


def test_the_same_id_while_held_joins():
    waiting = held()
    steps(waiting, Disconnected(ID), 1.0)
    assert steps(waiting, submitted(), 2.0) == ()
    assert steps(waiting, Ticked(), 1.0 + DISCONNECT_GRACE_S + 0.1)[0] != SendCancel(ID, 3)


def test_the_same_id_after_the_answer_continues_the_chain():
    waiting = held()
    steps(waiting, heard(ok()))
    assert steps(waiting, submitted()) == (Append(ID, 2),)


def test_a_cancelled_call_is_answered_at_once():
    cancel, gave_up = steps(held(indexes=(4, 5)), CancelAsked(ID))
    assert cancel == SendCancel(ID, 3)
    assert (gave_up.state, gave_up.missing) == (State.CANCELLED, (4, 5))


def test_a_full_stream_is_told_and_a_silent_broker_is_tried_again():
    (full,) = steps(held(), AppendFailed(invocation_id=ID, attempt=1, full=True, message="full"))
    assert full.error.code == "scheduler.overloaded"
    waiting = held()
    for attempt in range(1, APPENDS_FAILED_MAX):
        failed = AppendFailed(invocation_id=ID, attempt=attempt, full=False)
        assert steps(waiting, failed) == (Append(ID, attempt + 1),)
    failed = AppendFailed(invocation_id=ID, attempt=APPENDS_FAILED_MAX, full=False)
    _, gave_up = steps(waiting, failed)
    assert gave_up.error.code == "platform.unavailable"


def test_items_are_delivered_in_order_and_repeats_are_ignored():
    waiting = held(stream=True)
    assert steps(waiting, FrameHeard(ID, 1, 0)) == (DeliverFrame(ID, 0),)
    assert steps(waiting, FrameHeard(ID, 1, 0)) == ()
    assert steps(waiting, FrameHeard(ID, 1, 1)) == (DeliverFrame(ID, 1),)
    assert steps(waiting, heard(ok(), frames=2))[0].done


@pytest.mark.parametrize(
    "event",
    [FrameHeard(ID, 1, 2), heard(ok(), frames=2), lost(1)],
    ids=["gap", "lost tail", "lost container"],
)
def test_a_stream_that_misses_items_ends_with_an_error(event):
    waiting = held(stream=True)
    steps(waiting, FrameHeard(ID, 1, 0))
    cancel, gave_up = steps(waiting, event)
    assert cancel == SendCancel(ID, 3)
    assert gave_up.error.code == "invocation.lost"


def test_a_stream_without_items_yet_is_sent_again():
    assert steps(held(stream=True), lost(1)) == (Append(ID, 2),)


def test_credit_grows_in_steps_as_the_caller_takes_items_and_is_repeated():
    waiting = held(stream=True)
    for number in range(CREDIT_STEP):
        steps(waiting, FrameHeard(ID, 1, number))
    for _ in range(CREDIT_STEP - 1):
        assert steps(waiting, FrameTaken(ID)) == ()
    credit = SendCredit(ID, FRAMES_AHEAD_MAX + CREDIT_STEP)
    assert steps(waiting, FrameTaken(ID)) == (credit,)
    assert credit in steps(waiting, Ticked(), 1.0)


def test_a_worker_that_sends_beyond_its_credit_ends_the_stream():
    waiting = held(stream=True)
    for number in range(FRAMES_AHEAD_MAX):
        assert steps(waiting, FrameHeard(ID, 1, number)) == (DeliverFrame(ID, number),)
    _, gave_up = steps(waiting, FrameHeard(ID, 1, FRAMES_AHEAD_MAX))
    assert gave_up.error.code == "invocation.lost"
