"""The dispatcher under whatever order of events: never oversold, nothing lost, nothing stuck.

A small world plays streams, workers and a gateway around the machine. Messages are repeated, delayed,
dropped where the transport may drop them; containers and workers die. At the end the world heals, and
everything that was accepted must come to an end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import TERMINAL, State
from glowplug_scheduler import dispatch as d
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.builders_scheduler import (
    a_container,
    a_record,
    a_request,
    beats,
    ended,
    moved,
    refused,
)

DEPLOYMENTS = ("dep_a", "dep_b")
WORKERS = ("w1", "w2")


@dataclass
class Box:
    name: str
    worker: str
    deployment: str
    slots: int
    running: dict[str, int] = field(default_factory=dict)  # id → record sequence (0: interactive)


@dataclass
class Record:
    name: str
    deployment: str
    sequence: int
    state: State = State.ACCEPTED
    attempt: int = 0
    lost: int = 0
    container: str = ""
    due_at: float = 0.0


class Dispatching(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.machine = d.Dispatcher(0, 1, cache_bytes_max=50)
        self.count = 0
        self.started = 0
        self.last_sequence = 0
        self.stream: dict[int, object] = {}
        self.undelivered: list[int] = []
        self.attempts: dict[str, int] = {}
        self.done: set[str] = set()
        self.records: dict[str, Record] = {}
        self.record_log: list[d.RecordSeen] = []
        self.record_sequence = 0
        self.boxes: dict[str, Box] = {}
        self.beat = dict.fromkeys(WORKERS, 0)
        self.alive = dict.fromkeys(WORKERS, True)
        self.mail: list[d.Hand] = []
        self.old_beats: list[d.BeatHeard] = []
        self.announced: dict[str, float] = {}
        self.sent: dict[int, object] = {}
        self.handed: set[tuple[str, int]] = set()
        self.writes = 0
        self.step(d.ShardTaken(1))
        for worker, deployment in zip(WORKERS, DEPLOYMENTS, strict=True):
            self.start_box(worker, deployment, 2)

    # -- The world around the machine ----------------------------------------------------------

    def step(self, event: d.Event) -> None:
        for decision in self.machine.step(event, self.now):
            self.perform(decision)
        self.machine.check()

    def perform(self, decision: d.Decision) -> None:  # noqa: PLR0912
        match decision:
            case d.Hand():
                box = self.boxes.get(decision.container_id)
                assert box is None or box.deployment == decision.deployment_id
                if not decision.durable and decision.sequence:
                    request = decision.request or self.stream.get(decision.sequence)
                    assert request is not None, "a call was acknowledged before it was handed"
                    decision = msgspec.structs.replace(decision, request=request)
                    self.stream.pop(decision.sequence, None)
                    key = (str(decision.invocation_id), decision.attempt)
                    assert key not in self.handed, "a call was handed twice"
                    self.handed.add(key)
                self.mail.append(decision)
            case d.Ack():
                self.stream.pop(decision.sequence, None)
            case d.SendLost():
                name = str(decision.invocation_id)
                if decision.attempt == self.attempts[name] and name not in self.done:
                    if decision.cause == "start_failed":
                        self.done.add(name)
                    else:
                        self.append_call(name, self.deployment_of(name), decision.attempt + 1)
            case d.WriteRecord():
                record = self.records[decision.invocation_id]
                self.writes += 1
                if record.sequence == decision.sequence and self.writes % 3:  # or it fails
                    record.lost += decision.state is State.RETRY_WAIT
                    self.write(record, decision.state)
            case d.ForwardCancel():
                box = self.boxes.get(decision.container_id)
                if box and decision.invocation_id in box.running:
                    self.end(box, decision.invocation_id, State.CANCELLED)
            case d.AnnounceBacklog():
                at = self.announced.get(decision.backlog.deployment_id, -1.0)
                assert self.now - at >= 0.05 - 1e-9
                self.announced[decision.backlog.deployment_id] = self.now
            case d.AskWorker():
                self.step_later = decision

    def deployment_of(self, name: str) -> str:
        return DEPLOYMENTS[int(name.split("_")[1]) % 2]

    def append_call(self, name: str, deployment: str, attempt: int, **more: object) -> None:
        self.last_sequence += 1
        self.attempts[name] = attempt
        request = a_request(name, deployment, attempt=attempt, **more)
        self.stream[self.last_sequence] = self.sent[self.last_sequence] = request
        self.undelivered.append(self.last_sequence)

    def write(self, record: Record, state: State) -> None:
        self.record_sequence += 1
        record.sequence = self.record_sequence
        record.state = state
        self.record_log.append(
            a_record(
                record.name,
                record.sequence,
                state,
                record.deployment,
                record.container if state is State.RUNNING else "",
                attempt=record.attempt,
                lost_attempts=record.lost,
                due_at=record.due_at,
            )
        )
        if state in TERMINAL:
            self.done.add(record.name)

    def end(self, box: Box, name: str, state: State = State.SUCCEEDED) -> None:
        sequence = box.running.pop(name)
        record = self.records.get(name)
        if record is not None:
            if record.sequence == sequence:
                self.write(record, state)
        else:
            self.done.add(name)
        self.step(ended(box.name, name))

    # -- Arrivals -------------------------------------------------------------------------------

    @rule(priority=st.integers(-2, 2), inputs=st.integers(1, 4), at_once=st.booleans())
    def call(self, priority: int, inputs: int, at_once: bool) -> None:
        self.count += 1
        name = f"inv_{self.count}"
        self.append_call(name, self.deployment_of(name), 1, priority=priority, inputs=inputs)
        if at_once:
            sequence = self.undelivered.pop()
            self.step(d.RequestArrived(self.stream[sequence], sequence, 20))

    @rule(priority=st.integers(-2, 2), delay=st.sampled_from([0.0, 0.0, 3.0]))
    def spawn(self, priority: int, delay: float) -> None:
        self.count += 1
        name = f"inv_{self.count}"
        record = Record(name, self.deployment_of(name), 0)
        record.due_at = self.now + delay if delay else 0.0
        self.records[name] = record
        self.write(record, State.ACCEPTED)

    @precondition(lambda self: self.undelivered)
    @rule(data=st.data(), again=st.booleans())
    def deliver_call(self, data: st.DataObject, again: bool) -> None:
        index = data.draw(st.integers(0, len(self.undelivered) - 1))
        sequence = self.undelivered[index] if again else self.undelivered.pop(index)
        if sequence in self.stream:
            self.step(d.RequestArrived(self.stream[sequence], sequence, 20))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver_call_again(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(set(self.sent) - set(self.undelivered)) or [0]))
        if sequence:
            self.step(d.RequestArrived(self.sent[sequence], sequence, 20))

    @precondition(lambda self: self.record_log)
    @rule(again=st.booleans())
    def deliver_record(self, again: bool) -> None:
        self.step(self.record_log[0] if again else self.record_log.pop(0))

    # -- Workers --------------------------------------------------------------------------------

    @rule(
        worker=st.sampled_from(WORKERS),
        deployment=st.sampled_from(DEPLOYMENTS),
        slots=st.integers(1, 3),
    )
    def start_container(self, worker: str, deployment: str, slots: int) -> None:
        if len(self.boxes) < 6 and self.alive[worker]:
            self.start_box(worker, deployment, slots)

    def start_box(self, worker: str, deployment: str, slots: int) -> None:
        self.started += 1
        box = Box(f"ctr_{self.started}", worker, deployment, slots)
        self.boxes[box.name] = box
        self.step(moved(ContainerState.READY, box.name, deployment, worker, slots=slots))

    @precondition(lambda self: self.mail)
    @rule()
    def hear_all_hands(self) -> None:
        while self.mail:
            self.accept(self.mail.pop(0))

    @precondition(lambda self: self.mail)
    @rule(data=st.data(), dropped=st.sampled_from([False, False, False, True]))
    def hear_hand(self, data: st.DataObject, dropped: bool) -> None:
        hand = self.mail.pop(data.draw(st.integers(0, len(self.mail) - 1)))
        if not dropped:
            self.accept(hand)

    def accept(self, hand: d.Hand) -> None:
        box = self.boxes.get(hand.container_id)
        name = str(hand.invocation_id)
        if box is None or not self.alive[box.worker]:
            return
        if name in box.running:
            return  # the worker knows it
        if len(box.running) >= box.slots:
            self.step(refused(box.name, name, "full", hand.request))
            return
        if hand.durable:
            record = self.records[name]
            if record.sequence != hand.sequence:
                self.step(refused(box.name, name, "conflict"))
                return
            record.attempt += 1
            record.container = box.name
            self.write(record, State.RUNNING)
            box.running[name] = record.sequence
        else:
            box.running[name] = 0

    @precondition(lambda self: any(box.running for box in self.boxes.values()))
    @rule(data=st.data(), repeated=st.booleans())
    def finish(self, data: st.DataObject, repeated: bool) -> None:
        running = [(b.name, n) for b in self.boxes.values() for n in b.running]
        box, name = data.draw(st.sampled_from(sorted(running)))
        self.end(self.boxes[box], name)
        if repeated:
            self.step(ended(box, name))

    @rule(worker=st.sampled_from(WORKERS), stale=st.booleans())
    def hear_beat(self, worker: str, stale: bool) -> None:
        if stale and self.old_beats:
            self.step(self.old_beats[0])
        elif self.alive[worker]:
            self.send_beat(worker)

    def send_beat(self, worker: str) -> None:
        self.beat[worker] += 1
        event = self.make_beat(worker)
        self.old_beats.append(event)
        self.step(event)

    def make_beat(self, worker: str) -> d.BeatHeard:
        views = [
            a_container(b.name, b.deployment, slots=b.slots, in_flight=tuple(b.running))
            for b in self.boxes.values()
            if b.worker == worker
        ]
        return beats(self.beat[worker], *views, worker=worker)

    @precondition(lambda self: self.boxes)
    @rule(data=st.data(), failed=st.booleans())
    def end_container(self, data: st.DataObject, failed: bool) -> None:
        box = self.boxes.pop(data.draw(st.sampled_from(sorted(self.boxes))))
        if self.alive[box.worker]:
            state = ContainerState.FAILED if failed else ContainerState.STOPPED
            self.step(moved(state, box.name, box.deployment, box.worker))

    @precondition(lambda self: all(self.alive.values()))
    @rule(worker=st.sampled_from(WORKERS), seldom=st.integers(0, 3))
    def kill_worker(self, worker: str, seldom: int) -> None:
        if seldom:
            return
        self.alive[worker] = False
        self.boxes = {n: b for n, b in self.boxes.items() if b.worker != worker}

    # -- Gateway, time --------------------------------------------------------------------------

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def cancel_call(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.attempts)))
        self.done.add(name)
        self.step(d.CancelAsked(a_request(name).invocation_id))

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def cancel_record(self, data: st.DataObject) -> None:
        record = self.records[data.draw(st.sampled_from(sorted(self.records)))]
        if record.state not in TERMINAL:
            self.write(record, State.CANCELLED)

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.5, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.step(d.Tick())

    @rule(connected=st.booleans())
    def reach_broker(self, connected: bool) -> None:
        self.step(d.BrokerReached(connected))

    @invariant()
    def probe_tells_the_truth(self) -> None:
        names = tuple(a_request(name).invocation_id for name in self.attempts)
        (answer,) = self.machine.step(d.Probed(1, names), self.now)
        assert isinstance(answer, d.AnswerProbe)
        assert not set(answer.known.unknown) & set(self.machine.state.items)

    # -- The end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """The world heals; then everything accepted ends, and nothing is left behind."""
        self.step(d.BrokerReached(connected=True))
        for number, deployment in enumerate(DEPLOYMENTS):
            self.alive["w1"] = True
            box = Box(f"ctr_last_{number}", "w1", deployment, 2)
            self.boxes[box.name] = box
            self.step(moved(ContainerState.READY, box.name, deployment, "w1", slots=2))
        for _ in range(40 + 3 * self.count):
            self.now += 1.1
            while self.undelivered:
                sequence = self.undelivered.pop(0)
                if sequence in self.stream:
                    self.step(d.RequestArrived(self.stream[sequence], sequence, 20))
            while self.record_log:
                self.step(self.record_log.pop(0))
            while self.mail:
                self.accept(self.mail.pop(0))
            for box in list(self.boxes.values()):
                for name in list(box.running):
                    self.end(box, name)
            for worker in WORKERS:
                if self.alive[worker]:
                    self.send_beat(worker)
            self.probe_and_resend()
            self.step(d.Tick())
            if not self.open_work() and not self.machine.state.items and not self.flying():
                break
        assert not self.open_work()
        assert not self.machine.state.items
        assert not self.machine.state.cached_bytes
        assert not self.flying()

    def probe_and_resend(self) -> None:
        """Be the gateway: what the shard's owner does not know is sent again."""
        names = [name for name in self.attempts if name not in self.done]
        ids = tuple(a_request(name).invocation_id for name in names)
        (answer,) = self.machine.step(d.Probed(1, ids), self.now)
        assert isinstance(answer, d.AnswerProbe)
        if answer.known.settled:
            for name in answer.known.unknown:
                if not any(getattr(r, "invocation_id", "") == name for r in self.stream.values()):
                    self.append_call(name, self.deployment_of(name), self.attempts[name] + 1)

    def flying(self) -> int:
        return sum(queue.flying_inputs for queue in self.machine.state.queues.values())

    def open_work(self) -> set[str]:
        interactive = {name for name in self.attempts if name not in self.done}
        durable = {r.name for r in self.records.values() if r.state not in TERMINAL}
        return interactive | durable


TestDispatching = Dispatching.TestCase
TestDispatching.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
