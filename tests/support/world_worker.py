"""A simulated worker: it takes, runs and ends like the real one, by the real one's pure rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from glowplug_contracts.ids import ContainerId, InvocationId, WorkerId
from glowplug_contracts.messages.container import (
    BindContainer,
    BindReply,
    ContainerChanged,
    ContainerState,
    StopContainer,
)
from glowplug_contracts.messages.dispatch import (
    AttemptEnded,
    AttemptRefused,
    AttemptsBegan,
    CancelInvocation,
    RunInvocation,
    ShardOwned,
)
from glowplug_contracts.messages.invocation import (
    AttemptLost,
    Format,
    InputOutcome,
    InvocationRequested,
    Outcome,
    Payload,
    RemoteError,
    Reply,
    State,
    is_terminal,
)
from glowplug_contracts.messages.link import (
    CallAnswered,
    CallCancelled,
    CallRefused,
    CallSent,
    SlotsTold,
    TaskEnded,
    TaskSent,
)
from glowplug_contracts.messages.record import InvocationRecord, ordered_by
from glowplug_contracts.messages.worker import ContainerView, GpuDevice, WorkerBeat
from glowplug_worker.capacity import Offer, refuse_for_capacity
from glowplug_worker.chains import Chain
from glowplug_worker.notices import EVERY_S, Notices
from glowplug_worker.records import CLAIMABLE, claim, finish, lose

from tests.support.world import Conflict, Node, Unanswered, World
from tests.support.world_links import DIAL_AGAIN_S, Link, Room

if TYPE_CHECKING:
    from tests.support.world_nodes import Nodes

AGAIN_S = 0.1
START_ERROR = RemoteError(code="function.start_failed", type="ImportError", message="no module x")
USER_ERROR = RemoteError(code="function.failed", type="ValueError", message="no")


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How a deployment's code behaves."""

    start_s: float = 0.2
    run_s: float = 0.1
    start_fails: float = 0.0
    crashes: float = 0.0


class Flight:
    """Something that runs in a slot."""

    def __init__(self, run: RunInvocation, container: Container) -> None:
        self.run = run
        self.container = container
        self.direct = False
        self.ended = False
        self.cancelled = False

    def tell_end(self) -> None:
        """Tell whoever sent it straight here."""


class Container:
    """A live container."""

    def __init__(self, bind: BindContainer) -> None:
        self.bind = bind
        self.name = bind.container_id
        self.state = ContainerState.BOUND
        self.flights: dict[InvocationId, Flight] = {}
        self.stop_reason = ""

    @property
    def slots(self) -> int:
        return self.bind.spec.processes * self.bind.spec.concurrency


class Worker(Node):
    """One host's worker process."""

    def __init__(
        self,
        world: World,
        nodes: Nodes,
        name: str,
        *,
        cpu_millis: int,
        memory_bytes: int,
        gpus: tuple[str, ...],
    ) -> None:
        self.world = world
        self.nodes = nodes
        self.name = name
        self.cpu_millis = cpu_millis
        self.memory_bytes = memory_bytes
        self.gpus = tuple(
            GpuDevice(gpu_id=f"{name}/gpu{n}", kind=kind, memory_bytes=1)
            for n, kind in enumerate(gpus)
        )
        self.containers: dict[ContainerId, Container] = {}
        self.links: dict[str, Link] = {}
        self.runs = 0

    # -- Life -----------------------------------------------------------------------------------

    def start(self) -> None:
        self.alive, self.life = True, self.life + 1
        self.started_at = self.world.now
        self.beats = 0
        self.generation = 0
        self.shard_generation = 0
        self.world.tell(f"{self.name} starts")
        self.links = {}
        self.notices = Notices()
        self.notices.listen(lambda: self.world.later(EVERY_S, self, self._say_notices))
        self.beat()
        self.world.every(1.0, self, self.beat)
        self.world.every(0.25, self, self._dial)

    def die(self) -> None:
        self.world.tell(f"{self.name} dies with {[*self.containers]}")
        self.alive = False
        self.containers.clear()
        for link in self.links.values():
            link.end()

    # -- The direct path ------------------------------------------------------------------------

    def _dial(self) -> None:
        for gateway in self.nodes.gateways:
            if gateway.alive and gateway.instance not in self.links:
                link = self.links[gateway.instance] = Link(self.world, gateway, self)
                gateway.on_link(link)
                self._tell_rooms(*self.containers.values())

    def on_link_ended(self, link: Link) -> None:
        again_s = self.world.rng.uniform(*DIAL_AGAIN_S)
        self.world.later(again_s, self, lambda: self.links.pop(link.instance, None))

    def _tell_rooms(self, *containers: Container) -> None:
        for container in containers:
            room = Room(container)
            for link in self.links.values():
                if link.open and link.told.should_hear(room):
                    link.to_gateway(link.told.say(room))

    def on_frame(self, link: Link, frame: CallSent | CallCancelled | TaskSent) -> None:
        if isinstance(frame, CallCancelled):
            self.on_cancel(CancelInvocation(invocation_id=frame.invocation_id))
            return
        link.told.count(frame.container_id)
        if isinstance(frame, TaskSent):
            self._on_task(link, frame)
            return
        request, container = frame.request, self.containers.get(frame.container_id)
        if container is None:
            slots = _closed(frame)
        elif self._find(request.invocation_id) is None and Room(container).free > 0:
            self.world.counts["calls sent straight"] += 1
            run = RunInvocation(
                shard=0,
                generation=0,
                container_id=container.name,
                deployment_id=request.deployment_id,
                request=request,
            )
            self._fly(run, request.invocation_id, container, direct=True)
            self._tell_rooms(container)
            return
        else:
            slots = link.told.say(Room(container))
        self.world.counts["calls refused straight"] += 1
        refused = CallRefused(invocation_id=request.invocation_id, reason="full", slots=slots)
        link.to_gateway(refused)

    def _on_task(self, link: Link, frame: TaskSent) -> None:
        record, container = frame.record, self.containers.get(frame.container_id)
        if container is None:
            slots = _closed(frame)
        elif self._find(record.invocation_id) is None and Room(container).free > 0:
            flight = Sent(frame, container, link)
            container.flights[record.invocation_id] = flight
            self.world.checks.worker_changed(self)
            flight.begin(self)
            self._tell_rooms(container)
            return
        else:
            slots = link.told.say(Room(container))
        link.to_gateway(CallRefused(invocation_id=record.invocation_id, reason="full", slots=slots))

    def answer(self, reply_to: str, reply: Reply, container: Container | None = None) -> None:
        link = self.links.get(reply_to)
        if link is None or not link.open:
            self.reply(reply_to, reply)
            return
        slots = None if container is None else link.told.say(Room(container))
        link.to_gateway(CallAnswered(reply=reply, slots=slots))

    def _say_notices(self) -> None:
        for notice in self.notices.take():
            began = AttemptsBegan(
                container_id=notice.container_id,
                invocation_ids=notice.began,
                passed=notice.passed,
                peak=notice.peak,
            )
            ended = AttemptEnded(container_id=notice.container_id, invocation_ids=notice.ended)
            for scheduler in self.nodes.schedulers():
                self.world.send(scheduler, scheduler.on_began, began)
                self.world.send(scheduler, scheduler.on_ended, ended)

    def beat(self) -> None:
        self.beats += 1
        beat = WorkerBeat(
            worker_id=WorkerId(self.name),
            beat=self.beats,
            started_at=self.started_at,
            host=self.name,
            cpu_millis=self.cpu_millis,
            memory_bytes=self.memory_bytes,
            gpus=self.gpus,
            pythons=("3.11",),
            containers=tuple(self._view(each) for each in self.containers.values()),
        )
        for scheduler in self.nodes.schedulers():
            self.world.send(scheduler, scheduler.on_beat, beat)
        self.world.send(self.nodes.autoscaler, self.nodes.autoscaler.hear, beat)

    def _view(self, container: Container) -> ContainerView:
        spec = container.bind.spec
        ready = container.state in {ContainerState.READY, ContainerState.DRAINING}
        return ContainerView(
            container_id=container.name,
            deployment_id=spec.deployment_id,
            workspace=spec.workspace,
            kind=spec.kind,
            state=container.state,
            resources=spec.resources,
            slots=container.slots if ready else 0,
            gpu_ids=container.bind.gpu_ids,
            in_flight=tuple(container.flights),
        )

    def on_shard_owned(self, owned: ShardOwned) -> None:
        self.shard_generation = max(self.shard_generation, owned.generation)
        self.beat()

    # -- Containers -----------------------------------------------------------------------------

    def on_bind(self, bind: BindContainer) -> BindReply:
        reason = self._refuse(bind)
        self.world.counts[f"bind {reason or 'accepted'}"] += 1
        if not reason and bind.container_id not in self.containers:
            container = self.containers[bind.container_id] = Container(bind)
            self.world.tell(f"{self.name} takes {bind.container_id} of {bind.spec.deployment_id}")
            self.world.checks.worker_changed(self)
            self._move(container, ContainerState.STARTING)
            habits = self.nodes.habits[bind.spec.deployment_id]
            start_s = habits.start_s * self.world.rng.uniform(0.5, 1.5)
            self.world.later(start_s, self, self._started, container)
        return BindReply(accepted=not reason, reason=reason)

    def _refuse(self, bind: BindContainer) -> str:
        if bind.generation < self.generation:
            return "stale"
        self.generation = bind.generation
        if bind.container_id in self.containers or not self.world.machines.worker_checks_capacity:
            return ""
        offer = Offer(
            host=self.name,
            cpu_millis=self.cpu_millis,
            memory_bytes=self.memory_bytes,
            gpus=self.gpus,
        )
        return refuse_for_capacity(offer, [each.bind for each in self.containers.values()], bind)

    def _started(self, container: Container) -> None:
        if self.containers.get(container.name) is not container or container.stop_reason:
            return
        habits = self.nodes.habits[container.bind.spec.deployment_id]
        if self.world.chance(habits.start_fails):
            self._end(container, ContainerState.FAILED, "start_failed", START_ERROR)
            return
        self._move(container, ContainerState.READY)
        if self.world.illness.death_every_s and self.world.chance(habits.crashes):
            self.world.later(self.world.rng.uniform(0.1, 3.0), self, self._crash, container)

    def _crash(self, container: Container) -> None:
        if self.containers.get(container.name) is container:
            self._end(container, ContainerState.FAILED, "crashed", None)

    def on_stop(self, stop: StopContainer) -> None:
        container = self.containers.get(stop.container_id)
        if stop.generation < self.generation or container is None:
            return
        self.generation = stop.generation
        container.stop_reason = container.stop_reason or stop.reason
        if stop.grace_s <= 0:
            self._end(container, ContainerState.STOPPED, stop.reason, None)
        elif container.flights:
            if container.state is not ContainerState.DRAINING:
                self._move(container, ContainerState.DRAINING)
        else:
            self._end(container, ContainerState.STOPPED, container.stop_reason, None)

    def _end(
        self, container: Container, state: ContainerState, reason: str, error: RemoteError | None
    ) -> None:
        del self.containers[container.name]
        self.world.tell(f"{self.name} ends {container.name} ({reason})")
        for flight in list(container.flights.values()):
            self._lose(flight)
        container.flights.clear()
        self._move(container, state, reason, error)

    def _move(
        self,
        container: Container,
        state: ContainerState,
        reason: str = "",
        error: RemoteError | None = None,
    ) -> None:
        container.state = state
        self._tell_rooms(container)
        spec = container.bind.spec
        change = ContainerChanged(
            container_id=container.name,
            deployment_id=spec.deployment_id,
            worker_id=WorkerId(self.name),
            workspace=spec.workspace,
            kind=spec.kind,
            state=state,
            slots=container.slots if state is ContainerState.READY else 0,
            reason=reason,
            error=error,
        )
        self._store(lambda: self.world.broker.append_container(change))

    def _store(self, action: Any) -> None:
        """Write something that must be written: again until it is answered."""

        def then(answer: Any) -> None:
            if isinstance(answer, Unanswered):
                self.world.later(AGAIN_S, self, self._store, action)

        self.world.write(self, action, then)

    # -- Work -----------------------------------------------------------------------------------

    def on_run(self, run: RunInvocation) -> None:
        invocation_id = run.request.invocation_id if run.request else run.record
        assert invocation_id is not None
        running = self._find(invocation_id)
        container = self.containers.get(run.container_id)
        if run.generation < self.shard_generation:
            self._refuse_run(run, invocation_id, "stale")
        elif running is not None:
            self._adopt(run, invocation_id, running)
        elif container is None or container.state is not ContainerState.READY:
            self._refuse_run(run, invocation_id, "draining" if container else "unknown")
        elif len(container.flights) >= container.slots:
            self._refuse_run(run, invocation_id, "full")
        else:
            self.shard_generation = run.generation
            self._fly(run, invocation_id, container)

    def _find(self, invocation_id: InvocationId) -> Flight | None:
        for container in self.containers.values():
            if invocation_id in container.flights:
                return container.flights[invocation_id]
        return None

    def _refuse_run(self, run: RunInvocation, invocation_id: InvocationId, reason: str) -> None:
        self.world.counts[f"run {reason}"] += 1
        refused = AttemptRefused(
            container_id=run.container_id,
            invocation_id=invocation_id,
            reason=reason,
            request=run.request,
        )
        for scheduler in self.nodes.schedulers():
            self.world.send(scheduler, scheduler.on_refused, refused)

    def _adopt(self, run: RunInvocation, invocation_id: InvocationId, flight: Flight) -> None:
        known, asked = flight.run.request, run.request
        if known is not None and asked is not None and asked.attempt >= known.attempt:
            newer = msgspec.structs.replace(known, attempt=asked.attempt, reply_to=asked.reply_to)
            flight.run = msgspec.structs.replace(flight.run, request=newer)
        if run.container_id != flight.container.name:
            self._say_ended(run.container_id, invocation_id)

    def _fly(
        self,
        run: RunInvocation,
        invocation_id: InvocationId,
        container: Container,
        *,
        direct: bool = False,
    ) -> None:
        kind = Durable if run.record else Interactive
        flight = kind(run, container)
        flight.direct = direct
        if direct:
            self.notices.began(0, container.name, invocation_id)
        container.flights[invocation_id] = flight
        self.world.checks.worker_changed(self)
        flight.begin(self)

    def on_cancel(self, cancel: CancelInvocation) -> None:
        flight = self._find(cancel.invocation_id)
        if flight is not None:
            flight.cancelled = True

    def land(self, flight: Flight, invocation_id: InvocationId) -> None:
        """A flight is over and its words are written: free the slot, tell the dispatchers."""
        flight.ended = True
        container = flight.container
        if container.flights.get(invocation_id) is not flight:
            return
        del container.flights[invocation_id]
        flight.tell_end()
        if flight.direct:
            self.notices.ended(0, container.name, invocation_id)
        else:
            self._say_ended(container.name, invocation_id)
        self._tell_rooms(container)
        if container.stop_reason and not container.flights:
            self._end(container, ContainerState.STOPPED, container.stop_reason, None)

    def _say_ended(self, container_id: ContainerId, invocation_id: InvocationId) -> None:
        ended = AttemptEnded(container_id=container_id, invocation_ids=(invocation_id,))
        for scheduler in self.nodes.schedulers():
            self.world.send(scheduler, scheduler.on_ended, ended)

    def _lose(self, flight: Any) -> None:
        flight.ended = True
        flight.lose(self)

    def reply(self, reply_to: str, reply: Reply) -> None:
        gateway = self.nodes.gateway_of(reply_to)
        if gateway is not None:
            self.world.send(gateway, gateway.on_reply, reply)

    def new_result(self) -> InputOutcome:
        """Run the user's code once: every run has a result of its own, so that two can be told apart."""
        self.runs += 1
        self.world.counts["runs"] += 1
        if self.world.chance(0.05):
            return InputOutcome(state=State.FAILED, error=USER_ERROR, run_ms=float(self.runs))
        data = f"{self.name}/{self.life}/{self.runs}".encode()
        return InputOutcome(state=State.SUCCEEDED, result=Payload(format=Format.JSON, data=data))


def _closed(frame: CallSent | TaskSent) -> SlotsTold:
    sent = frame.record if isinstance(frame, TaskSent) else frame.request
    deployment_id = sent.deployment_id
    return SlotsTold(
        container_id=frame.container_id, deployment_id=deployment_id, free=0, closed=True
    )


class Interactive(Flight):
    """A call: its outcomes form a chain by compare-and-set."""

    def begin(self, worker: Worker) -> None:
        self.worker = worker
        request = self.run.request
        assert request is not None
        self.invocation_id = request.invocation_id
        self.chain = Chain(each.index for each in request.inputs)
        self.left = [each.index for each in request.inputs]
        if request.attempt == 1:
            self._next()
        else:
            self._read(self._next)

    def _read(self, then: Any) -> None:
        broker = self.worker.world.broker

        def heard(links: Any) -> None:
            if self.ended:
                return
            if isinstance(links, Unanswered):
                self.worker.world.later(AGAIN_S, self.worker, self._read, then)
                return
            for link in self.chain.read(links):
                self._answer(link)
            mine = [InputOutcome(index=index, state=State.SUCCEEDED) for index in self.left]
            self.left = [each.index for each in self.chain.unwritten(mine)]
            then()

        self.worker.world.write(
            self.worker, lambda: list(broker.outcomes.get(self.invocation_id, ())), heard
        )

    def _next(self) -> None:
        if self.ended:
            return
        if not self.left:
            self.worker.land(self, self.invocation_id)
            return
        worker = self.worker
        habits = worker.nodes.habits[self.container.bind.spec.deployment_id]
        run_s = habits.run_s * worker.world.rng.uniform(0.2, 2.0)
        worker.world.later(run_s, worker, self._done, self.left[0])

    def _done(self, index: int) -> None:
        if self.ended:
            return
        outcome = self.worker.new_result()
        if self.cancelled:
            outcome = InputOutcome(state=State.CANCELLED)
        self._write((msgspec.structs.replace(outcome, index=index),))

    def _tell_first(
        self, worker: Worker, request: InvocationRequested, outcomes: tuple[InputOutcome, ...]
    ) -> None:
        link = self.chain.compose(
            request,
            outcomes,
            container_id=self.container.name,
            worker_id=WorkerId(worker.name),
        )
        reply = Reply(outcome=link, stored=False)
        # As the real one: out of the slot first, told with the room, stored afterwards.
        container = self.container
        container.flights.pop(self.invocation_id)
        self.ended = True
        worker.notices.ended(0, container.name, self.invocation_id)
        worker.answer(request.reply_to, reply, container)
        worker.world.later(EVERY_S, worker, worker._store, lambda: self._store_told(link))
        worker.world.counts["told before stored"] += 1
        if container.stop_reason and not container.flights:
            worker._end(container, ContainerState.STOPPED, container.stop_reason, None)

    def _store_told(self, link: Outcome) -> int | Conflict:
        return self.worker.world.broker.append_outcome(link, 0)

    def _write(self, outcomes: tuple[InputOutcome, ...]) -> None:
        if self.ended:
            return
        if not outcomes:
            self._next()
            return
        worker, request = self.worker, self.run.request
        assert request is not None
        if self.direct and request.first and request.attempt == 1 and len(request.inputs) == 1:
            self._tell_first(worker, request, outcomes)
            return
        link = self.chain.compose(
            request,
            outcomes,
            container_id=self.container.name,
            worker_id=WorkerId(worker.name),
        )
        expect = self.chain.last_sequence

        def then(answer: Any) -> None:
            if self.ended:
                return
            if isinstance(answer, Unanswered):
                worker.world.later(AGAIN_S, worker, self._write, outcomes)
            elif isinstance(answer, Conflict):
                self._read(lambda: self._write(self.chain.unwritten(outcomes)))
            else:
                self.chain.wrote(answer, link)
                self.left = [i for i in self.left if i not in {o.index for o in outcomes}]
                self._answer(link)
                self._next()

        worker.world.write(worker, lambda: worker.world.broker.append_outcome(link, expect), then)

    def _answer(self, link: Outcome) -> None:
        assert self.run.request is not None
        self.worker.reply(self.run.request.reply_to, Reply(outcome=link))

    def lose(self, worker: Worker) -> None:
        request = self.run.request
        assert request is not None
        lost = AttemptLost(
            invocation_id=request.invocation_id, attempt=request.attempt, cause="container"
        )
        worker.reply(request.reply_to, Reply(lost=lost))


class Durable(Flight):
    """A record: claimed, run and ended by compare-and-set."""

    last: InvocationRecord | None = None

    def begin(self, worker: Worker) -> None:
        self.worker = worker
        assert self.run.record is not None
        self.invocation_id = self.run.record
        self.token = self.run.record_sequence
        self.record: InvocationRecord | None = None
        stored = worker.world.broker.records.get(self.invocation_id)
        if stored is None or stored[0] != self.token or stored[1].state not in CLAIMABLE:
            worker.land(self, self.invocation_id)
            return
        record = msgspec.structs.replace(stored[1], order=ordered_by(stored[1], stored[0]))
        claimed = claim(record, WorkerId(worker.name), self.container.name, worker.world.now)
        self._change(claimed, self._claimed)

    def _change(self, record: InvocationRecord, then: Any) -> None:
        token, broker = self.token, self.worker.world.broker
        self.worker.world.write(
            self.worker, lambda: broker.append_record(record, token), lambda a: then(record, a)
        )

    def _claimed(self, record: InvocationRecord, answer: Any) -> None:
        if not isinstance(answer, int):
            self.worker.land(self, self.invocation_id)
            return
        self.record, self.token = record, answer
        if self.ended:
            self.lose(self.worker)
            return
        self._run()

    def _run(self) -> None:
        worker = self.worker
        habits = worker.nodes.habits[self.container.bind.spec.deployment_id]
        run_s = habits.run_s * worker.world.rng.uniform(0.2, 2.0)
        worker.world.later(run_s, worker, self._done)

    def _done(self) -> None:
        if self.ended or self.record is None:
            return
        if self.cancelled:
            self.worker.land(self, self.invocation_id)
            return
        self._finish(finish(self.record, self.worker.new_result(), self.worker.world.now))

    def _finish(self, record: InvocationRecord) -> None:
        def then(_: InvocationRecord, answer: Any) -> None:
            if isinstance(answer, Unanswered):
                self.worker.world.later(AGAIN_S, self.worker, self._finish, record)
            else:
                self.last = record if isinstance(answer, int) else None
                self.worker.world.counts["ends refused"] += isinstance(answer, Conflict)
                self.worker.land(self, self.invocation_id)

        self._change(record, then)

    def lose(self, worker: Worker) -> None:
        if self.record is None:
            return  # not claimed yet, or the claim's answer will bring us here again
        lost = lose(self.record, None, worker.world.now)

        def then(_: InvocationRecord, answer: Any) -> None:
            if isinstance(answer, Unanswered):
                worker.world.later(AGAIN_S, worker, self.lose, worker)

        self._change(lost, then)


class Sent(Durable):
    """A record that its gateway claimed, and sent straight here."""

    def __init__(self, sent: TaskSent, container: Container, link: Link) -> None:
        run = RunInvocation(
            shard=0,
            generation=0,
            container_id=container.name,
            deployment_id=sent.record.deployment_id,
            record=sent.record.invocation_id,
            record_sequence=sent.sequence,
        )
        super().__init__(run, container)
        self.sent, self.link = sent, link

    def begin(self, worker: Worker) -> None:
        self.worker = worker
        self.invocation_id, self.token = self.sent.record.invocation_id, self.sent.sequence
        self.record = msgspec.structs.replace(
            self.sent.record, order=ordered_by(self.sent.record, self.token)
        )
        self._run()

    def tell_end(self) -> None:
        ended = self.last if self.last is not None and is_terminal(self.last.state) else None
        slots = self.link.told.say(Room(self.container))
        self.link.to_gateway(
            TaskEnded(
                invocation_id=self.invocation_id, sequence=self.token, record=ended, slots=slots
            )
        )
