"""The campaign's checker notices what it is for: each test plants one fault in evidence that was whole."""

from __future__ import annotations

import copy
import json

import pytest

from faults.checker import Evidence, check
from faults.plan import MOMENTS, make_plan, read_plan

ID, CALL = "inv_1", "inv_2"


def a_record(**changes):
    return {
        "invocation_id": ID,
        "state": "succeeded",
        "attempt": 1,
        "sequence": 3,
        "expected": 2,
        "outcome": {"result": {"data": json.dumps(["key-1", "run-a"]).encode()}},
    } | changes


def a_beat(*containers, memory=1000, cpu=1000):
    return {
        "worker_id": "worker-0",
        "memory_bytes": memory,
        "cpu_millis": cpu,
        "containers": list(containers),
    }


def a_container(gpu="gpu-0", memory=100, cpu=100, state="ready"):
    needs = {"memory_bytes": memory, "cpu_millis": cpu}
    return {"state": state, "gpu_ids": [gpu], "resources": needs}


def an_effect(effect, run="run-a", of=ID):
    return {"id": of, "effect": effect, "run": run}


def whole() -> Evidence:
    """Return evidence of one task and one call, in which everything is as promised."""
    return Evidence(
        accepted=[{"id": ID, "kind": "short", "key": "key-1", "cancelled": False}],
        answers=[
            {
                "id": CALL,
                "key": "key-2",
                "epochs": [0, 0],
                "state": "succeeded",
                "answer": ["key-2", "run-b"],
            }
            for _ in range(2)
        ],
        effects=[
            an_effect("start"),
            an_effect("end"),
            an_effect("start", "run-b", CALL),
            an_effect("end", "run-b", CALL),
        ],
        history=[
            [0, 1, ID, "accepted", "0", "0", 0, 0.0],
            [0, 2, ID, "running", "1", "0", 1, 0.0],
            [0, 3, ID, "succeeded", "1", "0", 2, 0.0],
        ],
        records={ID: a_record()},
        beats=[a_beat(a_container("gpu-0"), a_container("gpu-1"))],
    )


def test_what_is_whole_passes():
    verdict = check(whole())
    assert verdict.violations == []
    assert verdict.figures["accepted"] == 1
    assert verdict.figures["calls answered"] == 1
    assert verdict.figures["predecessors not seen"] == 0


def lost(evidence):
    evidence.records.clear()


def never_ended(evidence):
    evidence.records[ID] = a_record(state="running", outcome=None)


def accepted_by_default(evidence):
    del evidence.records[ID]["state"]  # the wire leaves a default out: it is still waiting


def two_outcomes_in_the_history(evidence):
    evidence.history.append([0, 4, ID, "failed", "1", "0", 3, 0.0])


def terminal_before_the_stored_record(evidence):
    evidence.history[1][3] = "cancelled"


def another_record_than_was_announced(evidence):
    evidence.history[2][3] = "failed"


def a_result_of_no_run(evidence):
    evidence.effects = [
        one for one in evidence.effects if one["effect"] != "end" or one["id"] != ID
    ]


def anothers_result(evidence):
    data = json.dumps(["key-9", "run-a"]).encode()
    evidence.records[ID]["outcome"] = {"result": {"data": data}}


def no_result(evidence):
    evidence.records[ID]["outcome"] = {}


def run_oftener_than_tried(evidence):
    evidence.effects.append(an_effect("start", "run-c"))


def more_user_tries_than_the_policy(evidence):
    evidence.records[ID]["user_attempts"] = 2


def lost_too_often(evidence):
    evidence.records[ID]["lost_attempts"] = 5


def an_end_that_it_may_not_have(evidence):
    evidence.records[ID]["state"] = "failed"
    evidence.history[2][3] = "failed"


def dead_too_early(evidence):
    evidence.records[ID] |= {"state": "dead", "lost_attempts": 1}
    evidence.history[2][3] = "dead"


def cancelled_by_nobody(evidence):
    evidence.accepted[0]["kind"] = "slow"
    evidence.records[ID]["state"] = evidence.history[2][3] = "cancelled"


def a_call_answered_twice_differently(evidence):
    evidence.answers[1]["answer"] = ["key-2", "run-d"]
    evidence.effects.append(an_effect("end", "run-d", CALL))


def a_call_answered_without_a_run(evidence):
    evidence.effects = evidence.effects[:3]


def a_call_that_failed(evidence):
    evidence.answers[0] |= {"state": "failed", "answer": "boom"}


def one_gpu_in_two_containers(evidence):
    evidence.beats.append(a_beat(a_container("gpu-0"), a_container("gpu-0")))


def memory_oversold(evidence):
    evidence.beats.append(a_beat(a_container(memory=600), a_container("gpu-1", memory=600)))


def cpu_oversold(evidence):
    evidence.beats.append(a_beat(a_container(cpu=1001)))


def an_orphan(evidence):
    evidence.left.append("process 17: bwrap")


def a_run_of_a_stranger(evidence):
    evidence.effects.append(an_effect("start", "run-x", "inv_stranger"))


def a_replica_that_lacks_something(evidence):
    evidence.behind.append("RECORDS_0 on n2: 7 behind")


PLANTED = {
    a_run_of_a_stranger: "F13",
    a_replica_that_lacks_something: "F14",
    lost: "F1",
    never_ended: "F1",
    accepted_by_default: "F1",
    two_outcomes_in_the_history: "F2",
    terminal_before_the_stored_record: "F2",
    another_record_than_was_announced: "F2",
    a_result_of_no_run: "F3",
    anothers_result: "F3",
    no_result: "F3",
    run_oftener_than_tried: "F4",
    more_user_tries_than_the_policy: "F4",
    lost_too_often: "F4",
    an_end_that_it_may_not_have: "F5",
    dead_too_early: "F5",
    cancelled_by_nobody: "F5",
    a_call_answered_twice_differently: "F6",
    a_call_answered_without_a_run: "F6",
    a_call_that_failed: "F6",
    one_gpu_in_two_containers: "F7",
    memory_oversold: "F7",
    cpu_oversold: "F7",
    an_orphan: "F8",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_noticed(plant):
    evidence = copy.deepcopy(whole())
    plant(evidence)
    violations = check(evidence).violations
    assert any(one.startswith(PLANTED[plant]) for one in violations), violations


def test_a_broker_that_was_killed_in_between_may_forget_a_calls_outcome():
    evidence = whole()
    a_call_answered_twice_differently(evidence)
    evidence.answers[1]["epochs"] = [0, 1]
    assert check(evidence).violations == []


def test_garbage_under_a_subject_of_records_is_nobodys():
    evidence = whole()
    evidence.history.append([0, 9, "inv_garbage", "", "", "", -1, 0.0])
    evidence.records["inv_garbage"] = {"shard": 0, "sequence": 9, "expected": -1}
    assert check(evidence).violations == []


def test_a_container_that_has_ended_holds_nothing():
    evidence = whole()
    evidence.beats.append(a_beat(a_container("gpu-0"), a_container("gpu-0", state="stopped")))
    assert check(evidence).violations == []


def test_a_plan_follows_from_its_seed_and_its_log_is_a_plan():
    plan = make_plan(7, 60)
    assert plan == make_plan(7, 60)
    assert plan != make_plan(8, 60)
    import msgspec

    log = [json.dumps({"event": "fault", "fault": msgspec.to_builtins(one)}) for one in plan]
    assert read_plan([json.dumps({"event": "back"}), *log]) == plan


def test_a_plan_has_every_kind_that_is_asked_for_and_no_other():
    for kinds in (("kill", "freeze", "full", "drag"), ("kill", "lose", "host", "island")):
        plan = make_plan(3, 60, brokers=3, kinds=kinds)
        assert {one.kind for one in plan} == set(kinds)
        assert all(one.targets for one in plan)


def test_a_long_plan_strikes_every_part_at_many_moments():
    plan = make_plan(1, 400)
    struck = {(one.targets[0].rpartition("-")[0], one.moment) for one in plan if one.targets}
    parts = {part for part, _ in struck}
    assert {
        "gateway",
        "scheduler",
        "worker",
        "broker",
        "runner@worker",
        "container@worker",
    } <= parts
    assert {moment for _, moment in struck} == {*MOMENTS, ""}


# -- Compositions, events, schedules, maps ------------------------------------------------------------


def others() -> Evidence:
    """Return evidence of one of each, in which everything is as promised."""
    evidence = whole()
    evidence.others = [
        {"what": "composed", "id": CALL, "after": [ID]},
        {"what": "event", "event": "event-1"},
        {"what": "added", "key": "c0", "by": 3},
        {"what": "added", "key": "c0", "by": 4},
        {"what": "count", "key": "c0", "held": 7},
        {"what": "race", "key": "r1", "value": "one", "stored": True},
        {"what": "race", "key": "r1", "value": "other", "stored": False},
        {"what": "holds", "key": "r1", "holds": "one"},
    ]
    evidence.effects += [
        {"id": "inv_e", "effect": "event", "run": "run-e", "event": "event-1"},
        {"id": "inv_f", "effect": "batched", "run": "run-f", "event": "event-1"},
        *({"id": f"inv_t{n}", "effect": "tick", "run": "run-t", "due": 2.0 * n} for n in range(3)),
    ]
    return evidence


def test_others_that_are_whole_pass():
    verdict = check(others())
    assert verdict.violations == []
    assert verdict.figures["composed"] == verdict.figures["events"] == 1
    assert (verdict.figures["due times"], verdict.figures["map writes"]) == (3, 4)


def begun_before_what_it_waits_for(evidence):
    evidence.effects.insert(0, an_effect("start", "run-b", CALL))


def begun_after_a_run_that_did_not_count(evidence):
    evidence.records[ID] = a_record(
        outcome={"result": {"data": json.dumps(["key-1", "run-z"]).encode()}}
    )


def an_event_nobody_handled(evidence):
    evidence.effects = [one for one in evidence.effects if one["effect"] != "event"]


def an_event_in_two_invocations(evidence):
    evidence.effects.append(
        {"id": "inv_g", "effect": "batched", "run": "run-g", "event": "event-1"}
    )


def a_due_time_twice(evidence):
    evidence.effects.append({"id": "inv_x", "effect": "tick", "run": "run-x", "due": 2.0})


def a_due_time_skipped(evidence):
    evidence.effects = [one for one in evidence.effects if one.get("due") != 2.0]


def an_addition_lost(evidence):
    evidence.others[4]["held"] = 4


def an_addition_twice(evidence):
    evidence.others[4]["held"] = 10


def two_who_were_first(evidence):
    evidence.others[6]["stored"] = True


def nobody_was_first(evidence):
    evidence.others[5]["stored"] = False


def the_first_ones_value_is_gone(evidence):
    evidence.others[7]["holds"] = "other"


PLANTED_OTHERS = {
    begun_before_what_it_waits_for: "F9",
    begun_after_a_run_that_did_not_count: "F9",
    an_event_nobody_handled: "F10",
    an_event_in_two_invocations: "F10",
    a_due_time_twice: "F11",
    a_due_time_skipped: "F11",
    an_addition_lost: "F12",
    an_addition_twice: "F12",
    two_who_were_first: "F12",
    nobody_was_first: "F12",
    the_first_ones_value_is_gone: "F12",
}


@pytest.mark.parametrize("plant", PLANTED_OTHERS, ids=lambda plant: plant.__name__)
def test_a_fault_planted_among_the_others_is_noticed(plant):
    evidence = copy.deepcopy(others())
    plant(evidence)
    violations = check(evidence).violations
    assert any(one.startswith(PLANTED_OTHERS[plant]) for one in violations), violations
