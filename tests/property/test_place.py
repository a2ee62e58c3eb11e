"""Placement under whatever order of events: no worker oversold, no GPU bound twice, all wishes met.

A small world plays workers, autoscaler and the wishes for named containers around the machine. Binds
are refused, lost or left unanswered; workers die and come back. At the end the world heals, and what
is wanted must run, once, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from glowplug_contracts.ids import ContainerId, WorkerId
from glowplug_contracts.messages.container import BindContainer, ContainerKind, ContainerState
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.worker import GpuDevice
from glowplug_scheduler import place as p
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.builders_scale import a_deployment
from tests.support.builders_scheduler import (
    GIB,
    a_container,
    a_target,
    a_wish,
    beats,
    moved,
)

MIB = 1024 * 1024
NEEDS = {
    "small": Resources(cpu_millis=500, memory_bytes=256 * MIB),
    "wide": Resources(cpu_millis=3000, memory_bytes=GIB),
    "gpu": Resources(cpu_millis=500, memory_bytes=GIB, gpus=("T4", "any"), gpu_count=1),
    "part": Resources(cpu_millis=100, gpus=("any",), gpu_count=1, gpu_memory_bytes=GIB // 2),
    "most": Resources(
        cpu_millis=100, gpus=("T4", "any"), gpu_count=1, gpu_memory_bytes=GIB * 3 // 4
    ),
    "pair": Resources(cpu_millis=100, memory_bytes=MIB, gpus=("A100",), gpu_count=2),
}


@dataclass
class Box:
    bind: BindContainer
    state: ContainerState = ContainerState.STARTING
    in_flight: int = 0


@dataclass
class Worker:
    name: str
    cpu: int
    memory: int
    gpus: tuple[GpuDevice, ...]
    started_at: float = 1.0
    beat: int = 0
    alive: bool = True
    boxes: dict[str, Box] = field(default_factory=dict)

    def fits(self, bind: BindContainer) -> bool:
        held = [b.bind for b in self.boxes.values()] + [bind]
        used = dict.fromkeys((g.gpu_id for g in self.gpus), 0)
        for b in held:
            for gpu_id in b.gpu_ids:
                used[gpu_id] += b.spec.resources.gpu_memory_bytes or GIB
        return (
            sum(b.spec.resources.cpu_millis for b in held) <= self.cpu
            and sum(b.spec.resources.memory_bytes for b in held) <= self.memory
            and max(used.values(), default=0) <= GIB
        )


def devices(kind: str, count: int) -> tuple[GpuDevice, ...]:
    return tuple(GpuDevice(gpu_id=f"{kind}-{n}", kind=kind, memory_bytes=GIB) for n in range(count))


class Placing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.machine = p.Placement()
        self.workers = {
            "w1": Worker("w1", 4000, 4 * GIB, ()),
            "w2": Worker("w2", 2000, 4 * GIB, devices("T4", 2)),
            "w3": Worker("w3", 2000, 4 * GIB, devices("A100", 3)),
        }
        self.targets: dict[str, int] = {}
        self.wanted: dict[str, str] = {}
        self.binds: list[p.Bind] = []
        self.answers: list[p.BindAnswered] = []
        self.events: list[p.ContainerMoved] = []
        self.old_beats: list[p.BeatHeard] = []
        self.ever: set[str] = set()
        self.parked: dict[str, dict[str, str]] = {}
        self.count = 0
        self.faulty = False  # something happened after which a worker may know better than we do
        for name, resources in NEEDS.items():
            deployment = a_deployment(name, resources=resources)
            self.step(p.DeploymentSeen(deployment.deployment_id, deployment))
        for worker in self.workers.values():
            self.send_beat(worker)
        self.step(p.LeaseTaken(1, b"0" * 16))
        self.now += p.SETTLED_AFTER_S
        self.step(p.Tick())

    # -- The world around the machine ----------------------------------------------------------

    def step(self, event: p.Event) -> None:
        for decision in self.machine.step(event, self.now):
            self.perform(decision)
        self.machine.check()

    def perform(self, decision: p.Decision) -> None:
        match decision:
            case p.Bind(_, bind):
                assert bind.container_id not in self.ever or bind.container_id in self.wanted
                self.ever.add(bind.container_id)
                self.parked.pop(bind.container_id, None)
                self.binds.append(decision)
            case p.Stop(worker_id, stop):
                worker = self.workers[worker_id]
                if worker.alive and stop.container_id in worker.boxes:
                    self.stop(worker, stop.container_id)
            case p.Publish(decided):
                if decided.decision == "parked":
                    assert decided.reasons
                    assert self.parked.get(decided.container_id) != decided.reasons
                    self.parked[decided.container_id] = decided.reasons
            case p.Bury(change):
                self.events.append(p.ContainerMoved(change))

    def stop(self, worker: Worker, container_id: str) -> None:
        box = worker.boxes.pop(container_id)
        self.events.append(self.event(worker, box, ContainerState.STOPPED))

    def event(self, worker: Worker, box: Box, state: ContainerState) -> p.ContainerMoved:
        spec = box.bind.spec
        return moved(
            state, box.bind.container_id, spec.deployment_id or "-", worker.name, spec.kind
        )

    def send_beat(self, worker: Worker) -> None:
        worker.beat += 1
        views = [
            a_container(
                container_id,
                box.bind.spec.deployment_id,
                state=box.state,
                kind=box.bind.spec.kind,
                resources=box.bind.spec.resources,
                gpu_ids=box.bind.gpu_ids,
                in_flight=tuple(f"inv_{n}" for n in range(box.in_flight)),
            )
            for container_id, box in worker.boxes.items()
        ]
        event = beats(
            worker.beat,
            *views,
            worker=worker.name,
            started_at=worker.started_at,
            cpu_millis=worker.cpu,
            memory_bytes=worker.memory,
            gpus=worker.gpus,
        )
        self.old_beats.append(event)
        self.step(event)

    def receive(self, decision: p.Bind) -> None:
        worker = self.workers[decision.worker_id]
        bind = decision.bind
        if not worker.alive:
            self.answer(decision, "unknown")
            return
        if bind.container_id not in worker.boxes:
            fits = worker.fits(bind)
            assert fits or self.faulty, "a worker was oversold"
            if not fits:
                self.answer(decision, "refused", "full")
                return
            worker.boxes[bind.container_id] = Box(bind)
        self.answer(decision, "accepted")

    def answer(self, decision: p.Bind, result: str, reason: str = "") -> None:
        self.answers.append(
            p.BindAnswered(decision.bind.container_id, decision.worker_id, result, reason)  # type: ignore[arg-type]
        )

    # -- Wishes ---------------------------------------------------------------------------------

    @rule(name=st.sampled_from(sorted(NEEDS)), count=st.integers(0, 3))
    def decide_target(self, name: str, count: int) -> None:
        self.targets[name] = count
        self.step(a_target(f"dep_{name}", count, generation=5))

    @rule(name=st.sampled_from(sorted(NEEDS)), count=st.integers(0, 9))
    def hear_deposed_autoscaler(self, name: str, count: int) -> None:
        if name in self.targets:
            self.step(a_target(f"dep_{name}", count, generation=4))

    @rule(need=st.sampled_from(sorted(NEEDS)))
    def want(self, need: str) -> None:
        if len(self.wanted) < 3:
            self.count += 1
            name = f"ctr_box_{self.count}"
            self.wanted[name] = need
            self.step(a_wish(name, resources=NEEDS[need]))

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def want_no_more(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wanted)))
        del self.wanted[name]
        self.step(p.WantedSeen(ContainerId(name), None))

    # -- Workers --------------------------------------------------------------------------------

    @precondition(lambda self: self.binds)
    @rule(data=st.data(), how=st.sampled_from(["", "", "", "refuse", "lose", "silent"]))
    def receive_bind(self, data: st.DataObject, how: str) -> None:
        bind = self.binds.pop(data.draw(st.integers(0, len(self.binds) - 1)))
        if how == "refuse":
            self.answer(bind, "refused", data.draw(st.sampled_from(["full", "image", "odd"])))
        elif how == "lose":
            self.answer(bind, "unknown")
        elif how == "silent":
            self.receive(bind)
            self.answers[-1] = p.BindAnswered(
                bind.bind.container_id, WorkerId(bind.worker_id), "unknown"
            )
        else:
            self.receive(bind)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def hear_answer(self, data: st.DataObject) -> None:
        self.step(self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1))))

    @precondition(lambda self: any(w.boxes for w in self.workers.values()))
    @rule(data=st.data(), what=st.sampled_from(["ready", "ready", "busy", "idle", "crash", "fail"]))
    def container_moves(self, data: st.DataObject, what: str) -> None:
        boxes = [(w.name, c) for w in self.workers.values() for c in w.boxes]
        name, container_id = data.draw(st.sampled_from(sorted(boxes)))
        worker = self.workers[name]
        box = worker.boxes[container_id]
        if what in {"ready", "busy", "idle"}:
            box.state = ContainerState.READY
            box.in_flight = {"ready": box.in_flight, "busy": 1, "idle": 0}[what]
            self.events.append(self.event(worker, box, box.state))
        else:
            del worker.boxes[container_id]
            self.wanted.pop(container_id, None)  # its owner gives up
            spec = box.bind.spec
            self.events.append(
                moved(
                    ContainerState.FAILED,
                    container_id,
                    spec.deployment_id or "-",
                    name,
                    spec.kind,
                    reason="start_failed" if what == "fail" else "crashed",
                )
            )
            if spec.kind is ContainerKind.SANDBOX:
                self.step(p.WantedSeen(ContainerId(container_id), None))

    @precondition(lambda self: self.events)
    @rule(again=st.booleans())
    def hear_event(self, again: bool) -> None:
        self.step(self.events[0] if again else self.events.pop(0))

    @rule(name=st.sampled_from(["w1", "w2", "w3"]), stale=st.booleans())
    def hear_beat(self, name: str, stale: bool) -> None:
        if stale:
            self.step(self.old_beats[0])
        elif self.workers[name].alive:
            self.send_beat(self.workers[name])

    @rule(name=st.sampled_from(["w1", "w2", "w3"]))
    def kill_worker(self, name: str) -> None:
        worker = self.workers[name]
        worker.alive = False
        for container_id in worker.boxes:
            self.wanted.pop(container_id, None)  # its owner gives up when told
            self.step(p.WantedSeen(ContainerId(container_id), None))
        worker.boxes = {}
        self.faulty = True

    @rule(name=st.sampled_from(["w1", "w2", "w3"]))
    def restart_worker(self, name: str) -> None:
        worker = self.workers[name]
        if not worker.alive:
            worker.alive, worker.beat = True, 0
            worker.started_at += 1

    @rule(seconds=st.sampled_from([0.2, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.faulty |= seconds > 1.0  # silence: the machine may believe a living worker dead
        self.step(p.Tick())

    @rule()
    def change_leader(self) -> None:
        generation = self.machine.state.generation
        self.step(p.LeaseLost())
        assert not self.machine.step(p.Tick(), self.now)
        self.step(p.LeaseTaken(generation + 1, b"0" * 16))

    @invariant()
    def live_workers_are_not_oversold(self) -> None:
        for worker in self.workers.values():
            cpu = sum(b.bind.spec.resources.cpu_millis for b in worker.boxes.values())
            assert cpu <= worker.cpu

    # -- The end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """The world heals; then every target and wish is met exactly."""
        self.workers["w9"] = Worker("w9", 100_000, 1000 * GIB, devices("A100", 90))
        for worker in self.workers.values():
            self.restart_worker_if_dead(worker)
        calm = 0
        for _ in range(150):
            self.now += 1.0
            while self.binds:
                self.faulty = True  # late binds of the time before
                self.receive(self.binds.pop(0))
            while self.answers:
                self.step(self.answers.pop(0))
            for worker in list(self.workers.values()):
                for box in list(worker.boxes.values()):
                    if box.state is not ContainerState.READY:
                        box.state = ContainerState.READY
                        self.events.append(self.event(worker, box, ContainerState.READY))
                self.send_beat(worker)
            while self.events:
                self.step(self.events.pop(0))
            self.step(p.Tick())
            calm = calm + 1 if self.running() == self.wishes() and not self.binds else 0
            if calm > 5:
                break
        assert self.running() == self.wishes()
        assert not self.machine.state.parked

    def restart_worker_if_dead(self, worker: Worker) -> None:
        if not worker.alive:
            worker.alive, worker.beat = True, 0
            worker.started_at += 1

    def running(self) -> dict[str, int]:
        count: dict[str, int] = {}
        for worker in self.workers.values():
            for container_id, box in worker.boxes.items():
                key = box.bind.spec.deployment_id or container_id
                count[key] = count.get(key, 0) + 1
        return count

    def wishes(self) -> dict[str, int]:
        targets = {f"dep_{name}": n for name, n in self.targets.items() if n}
        named = {n: 1 for n in self.wanted if n not in self.machine.state.finished}
        return targets | named


TestPlacing = Placing.TestCase
TestPlacing.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
