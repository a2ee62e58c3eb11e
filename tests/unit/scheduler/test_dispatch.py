"""What the dispatcher decides, one behaviour at a time."""

from __future__ import annotations

import pytest
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.container import ContainerKind, ContainerState
from glowplug_contracts.messages.invocation import PLATFORM_RETRIES_MAX, RemoteError, State
from glowplug_scheduler import dispatch as d

from tests.support.builders_scheduler import (
    a_container,
    a_record,
    a_request,
    arrived,
    beats,
    ended,
    moved,
    of_type,
    refused,
)

ERROR = RemoteError(code="function.start_failed", type="ImportError", message="no module named x")


class Machine:
    """A dispatcher with a clock; each step checks the invariants."""

    def __init__(self, **bounds) -> None:
        self.dispatcher = d.Dispatcher(0, 1, **bounds)
        self.now = 100.0
        self(d.ShardTaken(7))

    def __call__(self, event):
        decisions = self.dispatcher.step(event, self.now)
        self.dispatcher.check()
        return decisions

    def wait(self, seconds):
        self.now += seconds
        return self(d.Tick())

    def hands(self, event):
        return [(h.invocation_id, h.container_id) for h in of_type(self(event), d.Hand)]


@pytest.fixture
def machine():
    return Machine()


def ready(name="c1", deployment="dep_f", slots=1, **more):
    return moved(ContainerState.READY, name, deployment, slots=slots, **more)


# -- Handing ------------------------------------------------------------------------------------


def test_a_call_goes_to_a_free_slot_at_once_with_its_request(machine):
    machine(ready())
    (hand,) = of_type(machine(arrived("inv_1", 1)), d.Hand)
    assert (hand.container_id, hand.sequence, hand.durable) == ("c1", 1, False)
    assert hand.request == a_request("inv_1")


def test_a_call_waits_when_no_slot_is_free_and_goes_when_one_is(machine):
    assert machine.hands(arrived("inv_1", 1)) == []
    assert machine.hands(ready()) == [("inv_1", "c1")]
    assert machine.hands(arrived("inv_2", 2)) == []
    assert machine.hands(ended("c1", "inv_1")) == [("inv_2", "c1")]


def test_high_priority_goes_first_then_order_of_arrival(machine):
    for number, priority in enumerate((0, -10, 10, 0, 10), 1):
        machine(arrived(f"inv_{number}", number, priority=priority))
    machine(a_record("inv_durable", 1, priority=10))
    order = [machine.hands(ready())[0][0]]
    while following := machine.hands(ended("c1", order[-1])):
        order.append(following[0][0])
    assert order == ["inv_3", "inv_5", "inv_durable", "inv_1", "inv_4", "inv_2"]


def test_the_container_with_the_fewest_in_flight_is_chosen_ties_by_id(machine):
    machine(ready("c2", slots=2))
    machine(ready("c1", slots=2))
    chosen = [machine.hands(arrived(f"inv_{n}", n))[0][1] for n in range(1, 5)]
    assert chosen == ["c1", "c2", "c1", "c2"]
    assert machine.hands(arrived("inv_5", 5)) == []


def test_work_reaches_only_containers_of_its_own_deployment(machine):
    machine(ready("c1", "dep_other"))
    assert machine.hands(arrived("inv_1", 1, "dep_f")) == []


def test_sandboxes_and_other_shards_containers_are_not_dispatched_to():
    machine = Machine()
    machine(ready("c1", kind=ContainerKind.SANDBOX))
    assert machine.hands(arrived("inv_1", 1)) == []
    elsewhere = d.Dispatcher(0, 16)
    for shard in range(16):
        elsewhere = d.Dispatcher(shard, 16)
        elsewhere.step(ready(), 1.0)
        elsewhere.step(arrived("inv_1", 1), 1.0)
    owners = sum(1 for shard in range(16) if _hands_in_shard(shard))
    assert owners == 1


def _hands_in_shard(shard):
    dispatcher = d.Dispatcher(shard, 16)
    dispatcher.step(ready(), 1.0)
    return of_type(dispatcher.step(arrived("inv_1", 1), 1.0), d.Hand)


def test_a_batch_takes_one_slot_and_counts_as_its_inputs(machine):
    (announced,) = of_type(machine(arrived("inv_1", 1, inputs=200)), d.AnnounceBacklog)
    assert (announced.backlog.queued, announced.backlog.arrivals) == (200, 200)
    machine(ready(slots=2))
    assert machine.hands(arrived("inv_2", 2)) == [("inv_2", "c1")]


def test_a_draining_container_gets_nothing_more(machine):
    machine(ready(slots=2))
    machine(moved(ContainerState.DRAINING, slots=2))
    assert machine.hands(arrived("inv_1", 1)) == []
    machine(beats(1, a_container(slots=2)))  # written before it began to drain
    assert machine.hands(arrived("inv_2", 2)) == []


def test_a_draining_workers_containers_get_nothing_more(machine):
    machine(ready())
    machine(beats(1, a_container(), draining=True))
    assert machine.hands(arrived("inv_1", 1)) == []


# -- Repeats ------------------------------------------------------------------------------------


def test_a_call_delivered_twice_is_handed_once(machine):
    machine(ready(slots=5))
    assert machine.hands(arrived("inv_1", 1)) == [("inv_1", "c1")]
    assert list(machine(arrived("inv_1", 1))) == [d.Ack(1)]
    machine(ended("c1", "inv_1"))
    assert machine(arrived("inv_1", 1))[0] == d.Ack(1)
    assert not of_type(machine(arrived("inv_1", 1)), d.Hand)


def test_a_new_call_under_a_sequence_of_a_restarted_stream_is_handed(machine):
    machine(ready(slots=5))
    machine(arrived("inv_1", 1))
    assert machine.hands(arrived("inv_2", 1)) == [("inv_2", "c1")]


def test_a_higher_attempt_replaces_the_one_that_waits(machine):
    machine(arrived("inv_1", 1))
    assert d.Ack(1) in machine(arrived("inv_1", 2, attempt=2))
    (hand,) = of_type(machine(ready()), d.Hand)
    assert (hand.attempt, hand.sequence) == (2, 2)


def test_a_higher_attempt_runs_beside_the_one_that_may_still_run(machine):
    machine(ready("c1"))
    machine(ready("c2"))
    machine(arrived("inv_1", 1))
    assert machine.hands(arrived("inv_1", 2, attempt=2)) == [("inv_1", "c2")]
    assert machine.hands(arrived("inv_2", 3)) == []  # both slots are taken
    assert machine.hands(ended("c1", "inv_1")) == [("inv_2", "c1")]


def test_a_lower_attempt_is_dropped(machine):
    machine(arrived("inv_1", 2, attempt=2))
    assert d.Ack(1) in machine(arrived("inv_1", 1))
    (hand,) = of_type(machine(ready()), d.Hand)
    assert hand.attempt == 2


# -- Losing -------------------------------------------------------------------------------------


def test_a_handed_call_missing_from_two_later_beats_is_lost(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    machine.now += 0.5
    assert not of_type(machine(beats(1, a_container())), d.SendLost)
    machine.now += 1.0
    (lost,) = of_type(machine(beats(2, a_container())), d.SendLost)
    assert (lost.invocation_id, lost.attempt, lost.reply_to) == ("inv_1", 1, "gateway-1")
    assert machine.hands(arrived("inv_2", 2)) == [("inv_2", "c1")]


def test_two_beats_at_once_prove_nothing(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    machine.now += 0.01
    machine(beats(1, a_container()))
    assert not of_type(machine(beats(2, a_container())), d.SendLost)


def test_a_call_that_its_worker_lists_is_not_lost(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    for number in range(1, 6):
        machine.now += 1.0
        assert not of_type(machine(beats(number, a_container(in_flight=("inv_1",)))), d.SendLost)


def test_a_stale_beat_is_ignored(machine):
    machine(beats(5, a_container()))
    machine(arrived("inv_1", 1))
    machine.now += 1.0
    for _ in range(3):
        assert not machine(beats(4, a_container()))


def test_what_ran_in_a_failed_container_is_lost_with_the_workers_words(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    crash = RemoteError(code="function.crashed", type="Crash", message="signal 11")
    (lost,) = of_type(
        machine(moved(ContainerState.FAILED, reason="crashed", error=crash)), d.SendLost
    )
    assert (lost.cause, lost.error) == ("container", crash)


def test_a_crash_of_a_running_container_is_no_start_failure(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    machine(arrived("inv_2", 2))
    crash = RemoteError(code="function.crashed", type="Crash", message="signal 11")
    machine(moved(ContainerState.FAILED, reason="crashed", error=crash))
    assert machine.hands(ready("c2")) == [("inv_2", "c2")]


def test_a_silent_worker_is_asked_and_unreachable_means_dead(machine):
    machine(beats(1, a_container()))
    machine(arrived("inv_1", 1))
    assert not of_type(machine.wait(1.4), d.AskWorker)
    assert of_type(machine.wait(0.1), d.AskWorker) == [d.AskWorker("w1")]
    assert machine.hands(arrived("inv_2", 2)) == []
    (lost,) = of_type(machine(d.WorkerUnreachable("w1")), d.SendLost)
    assert (lost.invocation_id, lost.cause) == ("inv_1", "worker")


def test_a_silent_worker_that_answers_lives_and_gets_work_again(machine):
    machine(beats(1, a_container()))
    machine.wait(2.5)
    assert machine.hands(arrived("inv_1", 1)) == []
    assert machine.hands(d.WorkerAnswered("w1")) == [("inv_1", "c1")]
    assert not machine(d.WorkerUnreachable("w1"))


def test_a_silent_worker_is_dead_after_six_seconds(machine):
    machine(beats(1, a_container()))
    machine(arrived("inv_1", 1))
    assert not of_type(machine.wait(5.9), d.SendLost)
    assert of_type(machine.wait(0.2), d.SendLost)


def test_nobody_is_dead_while_the_broker_is_away(machine):
    machine(beats(1, a_container()))
    machine(arrived("inv_1", 1))
    machine(d.BrokerReached(connected=False))
    assert not of_type(machine.wait(60), d.SendLost)
    machine(d.BrokerReached(connected=True))
    assert not of_type(machine.wait(1.0), d.SendLost)
    assert of_type(machine.wait(6.0), d.SendLost)


def test_a_worker_known_by_a_container_event_only_can_die_too(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    assert of_type(machine.wait(6.1), d.SendLost)


def test_a_restarted_workers_old_containers_are_gone_at_once(machine):
    machine(beats(8, a_container("c1")))
    machine(arrived("inv_1", 1))
    (lost,) = of_type(machine(beats(1, a_container("c2"), started_at=2.0)), d.SendLost)
    assert lost.invocation_id == "inv_1"


def test_an_ended_container_stays_ended_whatever_a_late_beat_says(machine):
    machine(ready())
    machine(moved(ContainerState.STOPPED))
    machine(beats(1, a_container()))
    assert machine.hands(arrived("inv_1", 1)) == []


# -- Refusals -----------------------------------------------------------------------------------


def test_refused_work_goes_back_to_the_front_and_not_to_the_same_container(machine):
    machine(ready("c1"))
    machine(arrived("inv_1", 1))
    machine(arrived("inv_2", 2))
    assert machine.hands(refused("c1", "inv_1", "draining", a_request("inv_1"))) == []
    (hand,) = of_type(machine(ready("c2")), d.Hand)
    assert (hand.invocation_id, hand.sequence) == ("inv_1", 0)  # no stream holds it any more
    assert hand.request == a_request("inv_1")


def test_a_container_that_refused_is_open_again_after_its_workers_next_word(machine):
    machine(ready("c1"))
    machine(arrived("inv_1", 1))
    machine(refused("c1", "inv_1", "full", a_request("inv_1")))
    assert machine.hands(beats(1, a_container("c1"))) == [("inv_1", "c1")]


def test_work_refused_to_an_earlier_generation_is_taken_in(machine):
    machine(ready("c1"))
    assert machine.hands(refused("c9", "inv_1", "stale", a_request("inv_1"))) == [("inv_1", "c1")]


# -- Start failures -----------------------------------------------------------------------------


def test_a_start_failure_fails_everything_that_waits(machine):
    machine(arrived("inv_1", 1))
    machine(a_record("inv_2", 1))
    decisions = machine(moved(ContainerState.FAILED, reason="start_failed", error=ERROR))
    (lost,) = of_type(decisions, d.SendLost)
    assert (lost.invocation_id, lost.cause, lost.error) == ("inv_1", "start_failed", ERROR)
    assert d.Ack(1) in decisions
    (write,) = of_type(decisions, d.WriteRecord)
    assert (write.invocation_id, write.state, write.sequence) == ("inv_2", State.FAILED, 1)
    assert write.error == ERROR


def test_a_start_failure_beside_a_ready_container_fails_nobody(machine):
    machine(ready("c1"))
    machine(arrived("inv_1", 1))
    machine(arrived("inv_2", 2))
    decisions = machine(moved(ContainerState.FAILED, "c2", reason="start_failed", error=ERROR))
    assert not of_type(decisions, d.SendLost)
    assert machine.hands(ended("c1", "inv_1")) == [("inv_2", "c1")]


def failed_to_start(number, **details):
    code = details.pop("code", "function.start_failed")
    error = RemoteError(code=code, type="StartupError", message="it ended", details=details)
    return moved(ContainerState.FAILED, f"c{number}", reason="start_failed", error=error)


def test_containers_killed_as_they_start_fail_nobody_until_that_is_the_rule(machine):
    machine(arrived("inv_1", 1))
    machine(a_record("inv_2", 1))
    for number in range(PLATFORM_RETRIES_MAX):
        decisions = machine(failed_to_start(number, signal=9))
        assert not of_type(decisions, d.SendLost) + of_type(decisions, d.WriteRecord)
    decisions = machine(failed_to_start("last", signal=9))
    assert len(of_type(decisions, d.SendLost)) == len(of_type(decisions, d.WriteRecord)) == 1


def test_a_ready_container_ends_a_row_of_failed_starts(machine):
    machine(a_record("inv_1", 1))
    for number in range(PLATFORM_RETRIES_MAX):
        machine(failed_to_start(number, signal=9))
    machine(ready("c8", slots=0))
    machine(moved(ContainerState.FAILED, "c8", reason="crashed"))
    assert not of_type(machine(failed_to_start(9, signal=9)), d.WriteRecord)


def test_accepted_work_outlives_a_platform_that_can_start_nothing(machine):
    machine(arrived("inv_1", 1))
    machine(a_record("inv_2", 1))
    heard = []
    for number in range(PLATFORM_RETRIES_MAX + 5):
        heard += machine(failed_to_start(number, code="platform.unavailable"))
    assert [lost.invocation_id for lost in of_type(heard, d.SendLost)] == ["inv_1"]
    assert not of_type(heard, d.WriteRecord)
    assert machine.hands(ready("c_at_last")) == [("inv_2", "c_at_last")]


# -- Cancelling, probing, deadlines -------------------------------------------------------------


def test_a_cancelled_call_that_waits_is_dropped(machine):
    machine(arrived("inv_1", 1))
    assert d.Ack(1) in machine(d.CancelAsked("inv_1"))
    assert machine.hands(ready()) == []


def test_a_cancelled_call_that_runs_is_forwarded_to_its_worker(machine):
    machine(ready())
    machine(arrived("inv_1", 1))
    assert machine(d.CancelAsked("inv_1")) == [d.ForwardCancel("w1", "c1", "inv_1")]


def test_a_cancellation_that_overtakes_its_call_holds(machine):
    machine(ready())
    machine(d.CancelAsked("inv_1"))
    assert machine(arrived("inv_1", 1)) == [d.Ack(1)]


def test_a_probe_names_what_is_unknown_and_whether_that_proves_anything(machine):
    machine(beats(1, a_container("c9", in_flight=("inv_seen",))))
    machine(arrived("inv_waiting", 1))
    ids = ("inv_seen", "inv_waiting", "inv_no")
    (answer,) = machine(d.Probed(3, ids))
    assert (answer.token, answer.known.unknown) == (3, ("inv_no",))
    assert (answer.known.settled, answer.known.generation) == (False, 7)
    machine.wait(2.5)
    assert machine(d.Probed(3, ids))[0].known.settled


def test_a_call_whose_deadline_passed_is_not_handed(machine):
    machine(arrived("inv_1", 1, deadline_s=5.0))
    assert d.Ack(1) in machine.wait(5.0)
    assert machine.hands(ready()) == []


# -- Taking over --------------------------------------------------------------------------------


def test_what_an_earlier_generation_handed_keeps_its_slot_and_is_not_handed_again(machine):
    machine(beats(1, a_container(slots=1, in_flight=("inv_1",))))
    decisions = machine(arrived("inv_1", 1))
    assert d.Ack(1) in decisions
    assert not of_type(decisions, d.Hand)
    assert machine.hands(arrived("inv_2", 2)) == []
    assert machine.hands(ended("c1", "inv_1")) == [("inv_2", "c1")]


def test_a_record_running_in_a_container_nobody_has_is_lost_once_settled(machine):
    machine(a_record("inv_1", 5, State.RUNNING, container="c_gone", attempt=1))
    assert not of_type(machine.wait(2.4), d.WriteRecord)
    (write,) = of_type(machine.wait(0.2), d.WriteRecord)
    assert (write.state, write.sequence) == (State.RETRY_WAIT, 5)


def test_a_record_running_in_a_live_container_runs_on(machine):
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1))
    for number in range(1, 8):
        machine(beats(number, a_container(in_flight=("inv_1",))))
        assert not of_type(machine.wait(1.0), d.WriteRecord)
    assert machine.hands(arrived("inv_2", 1)) == []


# -- Durable work that a gateway sent straight to its slot ---------------------------------------


def test_a_record_that_a_gateway_claimed_takes_a_slot_until_it_ends(machine):
    machine(ready(slots=1))
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1))
    assert machine.hands(arrived("inv_2", 1)) == []
    assert machine.hands(a_record("inv_1", 6, State.SUCCEEDED, attempt=1)) == [("inv_2", "c1")]


def test_its_end_may_be_heard_before_its_record(machine):
    machine(ready(slots=1))
    machine(ended("c1", "inv_1"))
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1))
    machine(a_record("inv_1", 6, State.SUCCEEDED, attempt=1))
    assert machine.hands(arrived("inv_2", 1)) == [("inv_2", "c1")]


def test_a_record_claimed_and_never_sent_is_taken_back(machine):
    """Its gateway was killed in between: the container lives, and its beats do not list it."""
    machine(ready(slots=1))
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1))
    machine(beats(1, a_container(slots=1)))
    machine.wait(1.0)
    (write,) = of_type(machine(beats(2, a_container(slots=1))), d.WriteRecord)
    assert (write.state, write.sequence) == (State.RETRY_WAIT, 5)
    assert machine.hands(a_record("inv_1", 6, State.RETRY_WAIT, attempt=1, lost_attempts=1)) == [
        ("inv_1", "c1")
    ]


def test_a_record_that_its_worker_refused_is_handed_as_if_it_had_been_accepted(machine):
    machine(ready(slots=1))
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1))
    (hand,) = of_type(machine(a_record("inv_1", 6, State.ACCEPTED, order=5)), d.Hand)
    assert (hand.sequence, hand.attempt) == (6, 0)


def test_a_record_that_its_worker_refused_may_still_expire(machine):
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1, expires_at=110.0))
    machine(a_record("inv_1", 6, State.ACCEPTED, order=5, expires_at=110.0))
    (write,) = of_type(machine.wait(10.0), d.WriteRecord)
    assert (write.state, write.sequence) == (State.EXPIRED, 6)


# -- Durable work -------------------------------------------------------------------------------


def test_a_record_is_handed_without_payload_and_with_its_sequence(machine):
    machine(ready())
    (hand,) = of_type(machine(a_record("inv_1", 9)), d.Hand)
    assert (hand.durable, hand.request, hand.sequence) == (True, None, 9)


def test_a_record_waits_until_it_is_due(machine):
    machine(a_record("inv_1", 1, State.RETRY_WAIT, due_at=130.0))
    machine.wait(29.5)
    assert machine.hands(ready()) == []
    (hand,) = of_type(machine.wait(0.5), d.Hand)
    assert hand.waited_s == 0  # it waits for a slot only since it is due


def test_a_record_not_due_is_not_in_the_backlog(machine):
    (announced,) = of_type(machine(a_record("inv_1", 1, due_at=130.0)), d.AnnounceBacklog)
    assert announced.backlog.queued == 0


def test_a_record_that_could_not_start_in_time_expires(machine):
    machine(a_record("inv_1", 4, expires_at=110.0))
    (write,) = of_type(machine.wait(10.0), d.WriteRecord)
    assert (write.state, write.sequence) == (State.EXPIRED, 4)
    assert machine.hands(ready()) == []


def test_a_record_that_runs_does_not_expire(machine):
    machine(ready())
    machine(a_record("inv_1", 4, expires_at=104.0))
    machine(a_record("inv_1", 5, State.RUNNING, container="c1", attempt=1, expires_at=104.0))
    assert not of_type(machine.wait(5.0), d.WriteRecord)


def test_a_claimed_record_lost_with_its_worker_is_tried_again_then_dead(machine):
    for lost, state in ((0, State.RETRY_WAIT), (PLATFORM_RETRIES_MAX, State.DEAD)):
        name, box = f"inv_{lost}", f"c_{lost}"
        machine(ready(box))
        machine(a_record(name, 10 + 2 * lost))
        machine(a_record(name, 11 + 2 * lost, State.RUNNING, container=box, lost_attempts=lost))
        (write,) = of_type(machine(moved(ContainerState.FAILED, box)), d.WriteRecord)
        assert (write.state, write.sequence) == (state, 11 + 2 * lost)


def test_a_handed_record_nobody_claimed_is_simply_handed_again(machine):
    machine(ready("c1"))
    machine(a_record("inv_1", 1))
    assert not of_type(machine(moved(ContainerState.FAILED, "c1")), d.WriteRecord)
    assert machine.hands(ready("c2")) == [("inv_1", "c2")]


def test_a_change_is_asked_for_again_until_the_record_is_seen_to_move(machine):
    machine(a_record("inv_1", 4, expires_at=101.0))
    machine.wait(1.0)
    assert len(of_type(machine.wait(2.0), d.WriteRecord)) == 1
    machine(a_record("inv_1", 5, State.EXPIRED))
    assert not of_type(machine.wait(2.0), d.WriteRecord)
    assert not machine.dispatcher.state.items


def test_a_cancelled_record_keeps_its_slot_until_its_worker_is_done(machine):
    machine(ready())
    machine(a_record("inv_1", 1))
    machine(a_record("inv_1", 2, State.RUNNING, container="c1"))
    assert d.ForwardCancel("w1", "c1", "inv_1") in machine(a_record("inv_1", 3, State.CANCELLED))
    assert machine.hands(arrived("inv_2", 1)) == []
    assert machine.hands(ended("c1", "inv_1")) == [("inv_2", "c1")]


def test_an_end_that_overtakes_its_start_does_not_block_the_slot(machine):
    machine(ready())
    machine(a_record("inv_1", 1))
    machine(ended("c1", "inv_1"))
    machine(a_record("inv_1", 2, State.RUNNING, container="c1"))
    assert machine.hands(arrived("inv_2", 1)) == [("inv_2", "c1")]


def test_an_end_without_a_last_word_is_tried_again(machine):
    machine(ready("c1"))
    machine(a_record("inv_1", 1))
    machine(a_record("inv_1", 2, State.RUNNING, container="c1"))
    machine(ended("c1", "inv_1"))
    machine(beats(1, a_container("c1")))
    assert not of_type(machine.wait(5.0), d.WriteRecord)
    (write,) = of_type(machine.wait(5.0), d.WriteRecord)
    assert (write.state, write.sequence) == (State.RETRY_WAIT, 2)


def test_a_claim_that_failed_is_handed_again_soon(machine):
    machine(ready("c1"))
    machine(a_record("inv_1", 1))
    machine(ended("c1", "inv_1"))
    assert of_type(machine.wait(1.0), d.Hand)


def test_more_records_than_the_bound_stay_in_their_stream_until_there_is_room():
    machine = Machine(backlog_max=2)
    for number in range(1, 5):
        machine(a_record(f"inv_{number}", number))
    assert len(machine.dispatcher.state.items) == 2
    assert not of_type(machine.wait(1.0), d.ScanRecords)
    machine(a_record("inv_1", 5, State.CANCELLED))
    assert of_type(machine.wait(1.0), d.ScanRecords)
    machine(a_record("inv_2", 2))
    machine(a_record("inv_3", 3))
    assert set(machine.dispatcher.state.items) == {"inv_2", "inv_3"}


def test_those_that_wait_for_others_do_not_keep_them_out():
    machine = Machine(backlog_max=2)
    for number in (1, 2, 3):
        machine(a_record(f"inv_w{number}", number, after_count=1))
    for number in (1, 2, 3):
        machine(a_record(f"inv_{number}", number + 3, then=(f"inv_w{number}",)))
    waiters = {"inv_w1", "inv_w2", "inv_w3"}
    assert set(machine.dispatcher.state.items) == waiters | {"inv_1", "inv_2"}
    # The end of one leaves its waiter to run: it takes the room.
    machine(a_record("inv_1", 7, State.SUCCEEDED, then=("inv_w1",)))
    assert not of_type(machine.wait(1.0), d.ScanRecords)
    machine(a_record("inv_w1", 8, State.SUCCEEDED, after_count=1))
    assert of_type(machine.wait(1.0), d.ScanRecords)
    machine(a_record("inv_3", 6, then=("inv_w3",)))
    assert "inv_3" in machine.dispatcher.state.items


def test_calls_beyond_the_bound_are_sent_back():
    machine = Machine(backlog_max=1)
    for number in range(1, 4):
        decisions = machine(arrived(f"inv_{number}", number))
    (lost,) = of_type(decisions, d.SendLost)
    assert (lost.invocation_id, lost.cause) == ("inv_3", "refused")
    assert d.Ack(3) in decisions


def test_calls_beyond_the_cache_keep_only_their_sequence():
    machine = Machine(cache_bytes_max=15)
    machine(arrived("inv_1", 1))
    machine(arrived("inv_2", 2))
    assert machine.dispatcher.state.cached_bytes == 10
    (first, second) = of_type(machine(ready(slots=2)), d.Hand)
    assert first.request is not None
    assert second.request is None
    (lost,) = of_type(machine(d.PayloadGone("inv_2", 2)), d.SendLost)
    assert lost.invocation_id == "inv_2"


# -- Announcing ---------------------------------------------------------------------------------


def test_a_backlog_is_announced_at_once_from_rest_then_at_most_every_50_ms(machine):
    (first,) = of_type(machine(arrived("inv_1", 1, trace="00-x")), d.AnnounceBacklog)
    assert (first.backlog.queued, first.backlog.trace) == (1, "00-x")
    assert not of_type(machine(arrived("inv_2", 2)), d.AnnounceBacklog)
    assert not of_type(machine.wait(0.04), d.AnnounceBacklog)
    (second,) = of_type(machine.wait(0.02), d.AnnounceBacklog)
    assert second.backlog.queued == 2
    assert second.backlog.oldest_age_s == pytest.approx(0.06)


def test_a_backlog_is_repeated_each_second_while_there_is_work_or_a_container(machine):
    machine(ready())
    machine.wait(1.0)
    assert of_type(machine.wait(1.0), d.AnnounceBacklog)
    machine(moved(ContainerState.STOPPED))
    machine.wait(1.0)
    assert not of_type(machine.wait(1.0), d.AnnounceBacklog)


# -- Deleted deployments ------------------------------------------------------------------------


def gone(deployment="dep_f"):
    return d.DeploymentMoved(DeploymentId(deployment), deleted=True)


def serving(deployment="dep_f"):
    return d.DeploymentMoved(DeploymentId(deployment), deleted=False)


def test_what_waits_for_a_deleted_deployment_is_ended_at_once(machine):
    machine(arrived("inv_call", 1))
    machine(arrived("inv_other", 2, "dep_g"))
    machine(a_record("inv_durable", 1))
    machine(a_record("inv_later", 2, state=State.RETRY_WAIT, due_at=machine.now + 60))
    decisions = machine(gone())
    (lost,) = of_type(decisions, d.SendLost)
    assert (lost.invocation_id, lost.cause) == ("inv_call", "start_failed")
    assert lost.error.code == "deployment.not_found"
    assert of_type(decisions, d.Ack) == [d.Ack(1)]
    writes = {w.invocation_id: (w.state, w.error.code) for w in of_type(decisions, d.WriteRecord)}
    failed = (State.FAILED, "deployment.not_found")
    assert writes == {"inv_durable": failed, "inv_later": failed}
    assert machine.hands(ready("c2", "dep_g")) == [("inv_other", "c2")]


def test_the_end_of_a_deleted_deployments_record_is_asked_for_until_it_is_seen(machine):
    machine(a_record("inv_durable", 1))
    machine(gone())
    machine.wait(1.9)
    (again,) = of_type(machine.wait(0.2), d.WriteRecord)
    assert (again.invocation_id, again.state) == ("inv_durable", State.FAILED)
    machine(a_record("inv_durable", 2, state=State.FAILED))
    assert not machine.dispatcher.state.items


def test_what_arrives_for_a_deleted_deployment_is_ended_though_a_slot_is_free(machine):
    machine(ready())
    machine(gone())
    decisions = machine(arrived("inv_call", 1))
    assert [lost.invocation_id for lost in of_type(decisions, d.SendLost)] == ["inv_call"]
    assert of_type(decisions, d.Hand) == []
    (write,) = of_type(machine(a_record("inv_durable", 1)), d.WriteRecord)
    assert write.state is State.FAILED


def test_what_runs_when_its_deployment_is_deleted_goes_on_and_ends_if_it_comes_back(machine):
    machine(ready(slots=2))
    machine(arrived("inv_call", 1))
    machine(a_record("inv_durable", 1))
    machine(a_record("inv_durable", 2, state=State.RUNNING, container="c1"))
    decisions = machine(gone())
    assert not of_type(decisions, d.SendLost) + of_type(decisions, d.WriteRecord)
    decisions = machine(refused("c1", "inv_call", "draining", a_request("inv_call")))
    assert [lost.error.code for lost in of_type(decisions, d.SendLost)] == ["deployment.not_found"]
    back = a_record("inv_durable", 3, state=State.RETRY_WAIT, due_at=machine.now + 5)
    (write,) = of_type(machine(back), d.WriteRecord)
    assert (write.state, write.sequence) == (State.FAILED, 3)


def test_a_deployment_that_was_deleted_before_its_work_was_seen_is_remembered(machine):
    machine(gone())
    assert of_type(machine(arrived("inv_call", 1)), d.SendLost)


def test_a_deployment_that_serves_again_takes_work_again(machine):
    machine(gone())
    machine(serving())
    machine(arrived("inv_call", 1))
    assert machine.hands(ready()) == [("inv_call", "c1")]
