"""Admission: who is taken in, who is told to come later, and what a report changes."""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId, InvocationId, WorkspaceId
from glowplug_gateway.admission import (
    REPORT_STALE_S,
    Admission,
    Admit,
    BacklogHeard,
    CallLeft,
    CallOffered,
    Refuse,
    Ticked,
)

DEP = DeploymentId("dep_A")


def offered(name: str, **kw) -> CallOffered:
    return CallOffered(
        **{
            "invocation_id": InvocationId(name),
            "workspace": WorkspaceId("default"),
            "deployment_id": DEP,
            "shard": 0,
            "max_pending": 2,
        }
        | kw
    )


def heard(queued: int, in_flight: int) -> BacklogHeard:
    return BacklogHeard(deployment_id=DEP, shard=0, queued=queued, in_flight=in_flight)


def verdict(admission: Admission, call: CallOffered, now: float = 0.0):
    (decision,) = admission.step(call, now)
    admission.check()
    return decision


def test_takes_calls_until_max_pending_wait_and_names_the_limit():
    admission = Admission()
    assert verdict(admission, offered("a")) == Admit(InvocationId("a"))
    assert verdict(admission, offered("b")) == Admit(InvocationId("b"))
    refusal = verdict(admission, offered("c"))
    assert isinstance(refusal, Refuse)
    assert (refusal.limit, refusal.pending, refusal.bound) == ("deployment", 2, 2)
    assert refusal.retry_after_s >= 1.0


def test_own_calls_are_not_counted_twice_when_the_dispatcher_reports_them():
    admission = Admission()
    verdict(admission, offered("a"))
    admission.step(heard(0, 1), 0.1)
    assert admission.pending(DEP) == 1
    assert isinstance(verdict(admission, offered("b")), Admit)
    assert isinstance(verdict(admission, offered("c")), Refuse)


def test_an_ended_call_makes_room():
    admission = Admission()
    verdict(admission, offered("a"))
    verdict(admission, offered("b"))
    admission.step(CallLeft(InvocationId("a")), 1.0)
    assert isinstance(verdict(admission, offered("c")), Admit)


def test_counts_what_other_gateways_wait_for():
    admission = Admission()
    admission.step(heard(2, 0), 0.0)
    assert isinstance(verdict(admission, offered("a")), Refuse)


def test_counts_durable_work_until_the_next_report():
    admission = Admission()
    verdict(admission, offered("a", held=False))
    verdict(admission, offered("b", held=False))
    assert isinstance(verdict(admission, offered("c", held=False)), Refuse)
    admission.step(heard(0, 1), 0.2)  # one has ended
    assert isinstance(verdict(admission, offered("d", held=False)), Admit)


def test_no_limit_of_the_deployment_where_max_pending_is_zero():
    admission = Admission()
    for n in range(500):
        assert isinstance(verdict(admission, offered(f"c{n}", max_pending=0)), Admit)


def test_a_batch_larger_than_the_bound_passes_when_nothing_waits():
    admission = Admission()
    assert isinstance(verdict(admission, offered("a", inputs=256)), Admit)
    assert isinstance(verdict(admission, offered("b")), Refuse)


def test_the_same_id_again_is_admitted_and_counted_once():
    admission = Admission()
    verdict(admission, offered("a"))
    assert isinstance(verdict(admission, offered("a")), Admit)
    assert admission.pending(DEP) == 1


def test_workspace_and_shard_have_bounds_of_their_own():
    admission = Admission(workspace_max=3, shard_max=10)
    verdict(admission, offered("a", inputs=3, max_pending=0))
    refusal = verdict(admission, offered("b", max_pending=0))
    assert isinstance(refusal, Refuse)
    assert refusal.limit == "workspace"
    admission.step(
        BacklogHeard(deployment_id=DeploymentId("dep_B"), shard=0, queued=10, in_flight=0), 0.0
    )
    other = verdict(admission, offered("c", max_pending=0, workspace=WorkspaceId("else")))
    assert isinstance(other, Refuse)
    assert other.limit == "shard"


def test_forgets_the_report_of_a_dispatcher_that_went_silent():
    admission = Admission()
    admission.step(heard(5, 0), 0.0)
    admission.step(Ticked(), REPORT_STALE_S - 0.1)
    assert isinstance(verdict(admission, offered("a")), Refuse)
    admission.step(Ticked(), REPORT_STALE_S)
    assert isinstance(verdict(admission, offered("a")), Admit)


def test_silence_does_not_forget_own_calls():
    admission = Admission()
    verdict(admission, offered("a"))
    verdict(admission, offered("b"))
    admission.step(heard(0, 2), 0.1)
    admission.step(Ticked(), 10 * REPORT_STALE_S)
    assert isinstance(verdict(admission, offered("c")), Refuse)


def test_retry_after_follows_the_pace_of_endings():
    admission = Admission()
    for n in range(4):
        verdict(admission, offered(f"c{n}", max_pending=4))
    for n in range(3):
        admission.step(CallLeft(InvocationId(f"c{n}")), 8.0 * (n + 1))
    admission.step(heard(4, 0), 24.0)
    refusal = verdict(admission, offered("late", max_pending=4), 24.0)
    assert isinstance(refusal, Refuse)
    assert refusal.retry_after_s == 8.0


def test_silence_forgets_what_others_had_while_own_calls_go_on():
    admission = Admission()
    verdict(admission, offered("a"))
    admission.step(heard(6, 0), 0.1)
    assert admission.pending(DEP) == 6
    admission.step(Ticked(), 0.1 + REPORT_STALE_S)
    assert admission.pending(DEP) == 1
