"""The simulated world's processes around the real machines: schedulers, autoscaler, gateways, callers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from glowplug_autoscaler.decide import CaughtUp
from glowplug_autoscaler.decide import Ticked as AutoscalerTicked
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkerId
from glowplug_contracts.messages.container import BindReply, ContainerChanged
from glowplug_contracts.messages.deployment import Deployment, DeploymentState
from glowplug_contracts.messages.dispatch import (
    AttemptEnded,
    AttemptRefused,
    AttemptsBegan,
    BacklogChanged,
    CallsKnown,
    CancelInvocation,
    RunInvocation,
    ShardOwned,
)
from glowplug_contracts.messages.invocation import (
    AttemptLost,
    Format,
    Input,
    InvocationRequested,
    Payload,
    Reply,
    State,
)
from glowplug_contracts.messages.link import (
    CallAnswered,
    CallCancelled,
    CallRefused,
    CallSent,
    SlotsTold,
    TaskEnded,
)
from glowplug_contracts.messages.record import InvocationRecord, KeyLimit, RateLimit, ordered_by
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_gateway import admission, waiting
from glowplug_gateway.dispatch import fits_a_link
from glowplug_scheduler import dispatch, place
from glowplug_scheduler.records import changed

from tests.support.builders_scale import WORKSPACE
from tests.support.world import HEALTHY, Conflict, Node, Unanswered, World
from tests.support.world_links import Link
from tests.support.world_tasks import Tasks
from tests.support.world_worker import Habits, Worker

CALL_BYTES = 100
TAKEOVER_S = (0.05, 2.5)  # released on SIGTERM, or run out
BIND_TIMEOUT_S = 3.0
FROZEN_S = (1.0, 12.0)


class Scheduler(Node):
    """One process: the shard's dispatcher and placement, of one generation."""

    def __init__(self, world: World, nodes: Nodes, generation: int) -> None:
        self.world, self.nodes, self.generation = world, nodes, generation
        self.name = f"scheduler-{generation}"
        make = world.machines.dispatcher
        self.dispatcher = make(
            0,
            1,
            cache_bytes_max=world.rng.choice([0, 250, 10**6]),
            backlog_max=nodes.backlog_max,
        )
        self.placement = world.machines.placement()
        self._probes: dict[int, Any] = {}
        self._probed = 0
        self._scans = 0

    def start(self) -> None:
        self.alive, self.life = True, 1
        self.world.tell(f"{self.name} takes over")
        broker = self.world.broker
        for deployment in broker.deployments.values():
            self.on_deployment(deployment)
        for decided in broker.scale.values():
            self.on_scale(decided)
        broker.follow("deployments", self, self.on_deployment)
        broker.follow("scale", self, self.on_scale)
        broker.follow("containers", self, self.on_container)
        self._dispatch(dispatch.ShardTaken(self.generation))
        self._place(place.LeaseTaken(self.generation, self.generation.to_bytes(16)))
        owned = ShardOwned(shard=0, generation=self.generation, instance=self.name)
        for worker in self.nodes.workers:
            self.world.send(worker, worker.on_shard_owned, owned)
        self._follow_records()
        broker.take_calls(self)
        self.world.every(0.05, self, lambda: self._dispatch(dispatch.Tick()))
        self.world.every(0.2, self, lambda: self._place(place.Tick()))

    def _follow_records(self) -> None:
        scan = self._scans

        def on_record(sequence: int, record: InvocationRecord) -> None:
            if scan == self._scans and not self._leaves_out():
                self._dispatch(seen_of(sequence, record))

        broker = self.world.broker
        broker.follow("records", self, on_record)
        floor, below = broker.floor
        for sequence, record in broker.stored_records():
            if sequence in below or (sequence >= floor and not self._leaves_out()):
                self._dispatch(seen_of(sequence, record))
        self._dispatch(dispatch.RecordsRead(floor))

    def _leaves_out(self) -> bool:
        share = self.world.illness.left_out
        left_out = bool(share) and self.world.chance(share)
        self.world.counts["records left out"] += left_out
        return left_out

    def _audit(self, start: int) -> None:
        for sequence, record in self.world.broker.stored_records():
            if sequence >= start and not self._leaves_out():
                self._dispatch(dispatch.RecordAudited(seen_of(sequence, record)))
        self._dispatch(dispatch.AuditEnded())

    def _verify(self, invocation_id: InvocationId) -> None:
        self.world.counts["records verified"] += 1
        sequence, record = self.world.broker.records[invocation_id]
        self._dispatch(dispatch.RecordVerified(seen_of(sequence, record)))

    # -- Hearing --------------------------------------------------------------------------------

    def on_call(self, request: InvocationRequested, sequence: int) -> None:
        self._dispatch(dispatch.RequestArrived(request, sequence, CALL_BYTES))

    def on_beat(self, beat: WorkerBeat) -> None:
        self._dispatch(dispatch.BeatHeard(beat))
        self._place(place.BeatHeard(beat))

    def on_container(self, change: ContainerChanged) -> None:
        self._dispatch(dispatch.ContainerMoved(change))
        self._place(place.ContainerMoved(change))

    def on_deployment(self, deployment: Deployment) -> None:
        deleted = deployment.state is DeploymentState.DELETED
        self._dispatch(dispatch.DeploymentMoved(deployment.deployment_id, deleted))
        self._place(place.DeploymentSeen(deployment.deployment_id, deployment))

    def on_scale(self, decided: ScaleDecided) -> None:
        if decided.target < decided.previous:
            self._place(place.LoadsSeen(dict(self.dispatcher.loads())))
        self._place(place.TargetDecided(decided))

    def on_began(self, began: AttemptsBegan) -> None:
        self._dispatch(dispatch.Began(began))

    def on_ended(self, ended: AttemptEnded) -> None:
        self._dispatch(dispatch.Ended(ended))

    def on_refused(self, refused: AttemptRefused) -> None:
        self._dispatch(dispatch.Refused(refused, CALL_BYTES))

    def on_cancel(self, invocation_id: InvocationId) -> None:
        self._dispatch(dispatch.CancelAsked(invocation_id))

    def on_probe(self, gateway: Gateway, probe: waiting.Probe) -> None:
        self._probed += 1
        self._probes[self._probed] = (gateway, probe)
        self._dispatch(dispatch.Probed(self._probed, probe.invocation_ids))

    # -- Doing ----------------------------------------------------------------------------------

    def _dispatch(self, event: dispatch.Event) -> None:
        for decision in self.dispatcher.step(event, self.world.now):
            self._perform(decision)

    def _place(self, event: place.Event) -> None:
        for decision in self.placement.step(event, self.world.now):
            self._perform(decision)

    def _perform(self, decision: object) -> None:  # noqa: PLR0912 - one arm each
        world = self.world
        match decision:
            case dispatch.Hand():
                self._hand(decision)
            case dispatch.Ack(sequence):
                self._ack(sequence)
            case dispatch.SendLost():
                self._send_lost(decision)
            case dispatch.WriteRecord():
                world.write(self, lambda: self._change(decision))
            case dispatch.ForwardCancel(worker_id, _, invocation_id):
                worker = self.nodes.worker(worker_id)
                world.send(worker, worker.on_cancel, CancelInvocation(invocation_id=invocation_id))
            case dispatch.AnnounceBacklog(backlog):
                autoscaler = self.nodes.autoscaler
                world.send(autoscaler, autoscaler.hear, backlog)
                for gateway in self.nodes.gateways:
                    world.send(gateway, gateway.on_backlog, backlog)
            case dispatch.AnswerProbe(token, known):
                gateway, probe = self._probes.pop(token)
                world.send(gateway, gateway.on_probed, probe, known)
            case dispatch.AskWorker(worker_id):
                self._ask(worker_id)
            case dispatch.ScanRecords():
                world.counts["records scanned"] += 1
                self._scans += 1  # the shell hears nothing more of the old subscription
                world.later(world.latency(), self, self._follow_records)
            case dispatch.AuditRecords(start):
                world.later(world.latency(), self, self._audit, start)
            case dispatch.VerifyRecord(invocation_id):
                world.later(world.latency(), self, self._verify, invocation_id)
            case dispatch.KeepFloor(floor, below):
                world.write(self, lambda: world.broker.keep_floor(floor, below))
            case place.Bind(worker_id):
                self._bind(worker_id, decision)
            case place.Stop(worker_id, stop):
                worker = self.nodes.worker(worker_id)
                world.send(worker, worker.on_stop, stop)
            case place.Bury(change):
                self._bury(change)

    def _hand(self, hand: dispatch.Hand) -> None:
        request = hand.request
        if not hand.durable and request is None:
            self.world.later(self.world.latency(), self, self._hand_stored, hand)
            return
        self._send_run(hand, request)

    def _hand_stored(self, hand: dispatch.Hand) -> None:
        request = self.world.broker.calls.get(hand.sequence)
        if request is None or request.invocation_id != hand.invocation_id:
            self._dispatch(dispatch.PayloadGone(hand.invocation_id, hand.sequence))
        else:
            self._send_run(hand, request)

    def _send_run(self, hand: dispatch.Hand, request: InvocationRequested | None) -> None:
        worker = self.nodes.worker(hand.worker_id)
        if hand.durable:
            self.world.checks.handed(hand.invocation_id, hand.sequence)
        run = RunInvocation(
            shard=0,
            generation=self.generation,
            container_id=hand.container_id,
            deployment_id=hand.deployment_id,
            request=request,
            record=hand.invocation_id if hand.durable else None,
            record_sequence=hand.sequence if hand.durable else 0,
            workspace=hand.workspace,
        )
        self.world.send(worker, worker.on_run, run)
        if not hand.durable:
            self._ack(hand.sequence)

    def _ack(self, sequence: int) -> None:
        broker = self.world.broker
        self.world.send(broker, broker.ack, sequence, self, self.life)

    def _send_lost(self, lost: dispatch.SendLost) -> None:
        message = AttemptLost(
            invocation_id=lost.invocation_id,
            attempt=lost.attempt,
            cause=lost.cause,
            error=lost.error,
        )
        gateway = self.nodes.gateway_of(lost.reply_to)
        if gateway is not None:
            self.world.send(gateway, gateway.on_reply, Reply(lost=message))

    def _change(self, write: dispatch.WriteRecord) -> Any:
        stored = self.world.broker.records.get(write.invocation_id)
        if stored is None or stored[0] != write.sequence:
            return Conflict()
        record = msgspec.structs.replace(stored[1], order=ordered_by(stored[1], stored[0]))
        return self.world.broker.append_record(changed(record, write, self.world.now), stored[0])

    def _ask(self, worker_id: WorkerId) -> None:
        worker = self.nodes.worker(worker_id)
        if worker.alive:
            self.world.send(worker, self._reached, worker_id)
        else:
            self.world.later(self.world.latency(), self, self._unreachable, worker_id)

    def _reached(self, worker_id: WorkerId) -> None:
        self.world.send(self, self._answered, worker_id)

    def _answered(self, worker_id: WorkerId) -> None:
        self._dispatch(dispatch.WorkerAnswered(worker_id))
        self._place(place.WorkerAnswered(worker_id))

    def _unreachable(self, worker_id: WorkerId) -> None:
        self._dispatch(dispatch.WorkerUnreachable(worker_id))
        self._place(place.WorkerUnreachable(worker_id))

    def _bind(self, worker_id: WorkerId, decision: place.Bind) -> None:
        worker = self.nodes.worker(worker_id)
        bind = decision.bind
        answered: list[str] = []

        def answer(result: str, reason: str = "") -> None:
            if not answered:
                answered.append(result)
                self._place(
                    place.BindAnswered(bind.container_id, worker_id, result, reason)  # type: ignore[arg-type]
                )

        def arrive() -> None:
            reply: BindReply = worker.on_bind(bind)
            result = "accepted" if reply.accepted else "refused"
            self.world.send(self, answer, result, reply.reason)

        if worker.alive:
            self.world.send(worker, arrive, once=True)
            self.world.later(BIND_TIMEOUT_S, self, answer, "unknown")
        else:
            self.world.later(self.world.latency(), self, answer, "refused", "unreachable")

    def _bury(self, change: ContainerChanged) -> None:
        def then(answer: Any) -> None:
            if isinstance(answer, Unanswered):
                self._bury(change)

        self.world.write(self, lambda: self.world.broker.append_container(change), then)


class AutoscalerNode(Node):
    """The autoscaler's leader, over its lives."""

    name = "autoscaler"

    def __init__(self, world: World) -> None:
        self.world = world

    def start(self) -> None:
        self.alive, self.life = True, self.life + 1
        self.machine = self.world.machines.autoscaler(self.life)
        self.unwritten: dict[DeploymentId, ScaleDecided] = {}
        broker = self.world.broker
        broker.follow("containers", self, self.hear)
        broker.follow("deployments", self, self.hear)
        broker.follow("scale", self, self.hear)
        for deployment in broker.deployments.values():
            self.hear(deployment)
        for decided in list(broker.scale.values()):
            self.hear(decided)
        self.hear(CaughtUp())
        self.world.every(0.2, self, lambda: self.hear(AutoscalerTicked()))

    def hear(self, event: Any) -> None:
        for decision in self.machine.step(event, self.world.now):
            self.world.tell(
                f"{decision.deployment_id}: {decision.previous} -> {decision.target} "
                f"({decision.reason})"
            )
            waits = decision.deployment_id in self.unwritten
            self.unwritten[decision.deployment_id] = decision
            if not waits:
                self._write(decision.deployment_id)

    def _write(self, deployment_id: DeploymentId) -> None:
        decision = self.unwritten[deployment_id]

        def then(answer: Any) -> None:
            if not isinstance(answer, Unanswered) and self.unwritten[deployment_id] is decision:
                del self.unwritten[deployment_id]
            else:
                self._write(deployment_id)

        self.world.write(self, lambda: self.world.broker.append_scale(decision), then)


class Gateway(Node):
    """A gateway, over its lives: each has a name of its own for replies."""

    def __init__(self, world: World, nodes: Nodes, name: str) -> None:
        self.world, self.nodes, self.name = world, nodes, name

    @property
    def instance(self) -> str:
        return f"{self.name}.{self.life}"

    def start(self) -> None:
        self.alive, self.life = True, self.life + 1
        self.admission = self.world.machines.admission()
        self.waiting = self.world.machines.waiting()
        self.warm = self.world.machines.warm()
        self.links: dict[int, Link] = {}
        self.sent: dict[InvocationId, Link] = {}
        self.queued: dict[DeploymentId, int] = {}
        self.tasks = Tasks(self)
        self._stored = True
        self.calls: dict[InvocationId, Call] = {}
        self.world.every(0.25, self, self._tick)

    def _tick(self) -> None:
        self.admission.step(admission.Ticked(), self.world.now)
        self._wait(waiting.Ticked())

    def submit(self, call: Call) -> bool:
        """Take a call in; False if it is refused."""
        offered = admission.CallOffered(
            invocation_id=call.invocation_id,
            workspace=WORKSPACE,
            deployment_id=call.deployment_id,
            shard=0,
            inputs=call.inputs,
            max_pending=self.nodes.deployment(call.deployment_id).spec.max_pending,
        )
        (decision,) = self.admission.step(offered, self.world.now)
        if not isinstance(decision, admission.Admit):
            return False
        self.calls[call.invocation_id] = call
        self._wait(
            waiting.Submitted(
                invocation_id=call.invocation_id,
                workspace=WORKSPACE,
                shard=0,
                indexes=tuple(range(call.inputs)),
            )
        )
        return True

    def cancel(self, invocation_id: InvocationId) -> None:
        self._wait(waiting.CancelAsked(invocation_id))

    def on_reply(self, reply: Reply) -> None:
        if reply.outcome is not None:
            outcome = reply.outcome
            self._wait(
                waiting.OutcomeHeard(
                    invocation_id=outcome.invocation_id,
                    attempt=outcome.attempt,
                    outcomes=outcome.outcomes,
                    stored=reply.stored,
                ),
                stored=reply.stored,
            )
        elif reply.lost is not None:
            lost = reply.lost
            self._wait(
                waiting.LostHeard(
                    invocation_id=lost.invocation_id,
                    attempt=lost.attempt,
                    cause=lost.cause,
                    error=lost.error,
                )
            )

    def on_backlog(self, backlog: BacklogChanged) -> None:
        heard = admission.BacklogHeard(
            deployment_id=backlog.deployment_id,
            shard=0,
            queued=backlog.queued,
            in_flight=backlog.in_flight,
        )
        self.admission.step(heard, self.world.now)
        self.queued[backlog.deployment_id] = backlog.queued

    # -- The direct path ------------------------------------------------------------------------

    def on_link(self, link: Link) -> None:
        self.links[link.number] = link
        self.warm.open(link.number)

    def on_link_ended(self, link: Link) -> None:
        del self.links[link.number]
        self.warm.close(link.number)
        self.tasks.link_ended(link)
        for invocation_id, attempt in list(link.calls.items()):
            self._leave(link, invocation_id)
            lost = AttemptLost(invocation_id=invocation_id, attempt=attempt, cause="worker")
            self.on_reply(Reply(lost=lost))

    def _leave(self, link: Link, invocation_id: InvocationId) -> bool:
        if link.calls.pop(invocation_id, None) is None:
            return False
        self.sent.pop(invocation_id, None)
        return True

    def on_frame(
        self, link: Link, frame: CallAnswered | CallRefused | SlotsTold | TaskEnded
    ) -> None:
        match frame:
            case CallAnswered(reply=reply, slots=slots):
                if slots is not None:
                    self.warm.told(link.number, slots)
                ended = reply.outcome or reply.lost
                if ended is not None:
                    self._leave(link, ended.invocation_id)
                self.on_reply(reply)
            case SlotsTold():
                self.warm.told(link.number, frame)
            case CallRefused(invocation_id=invocation_id, slots=slots):
                self.warm.told(link.number, slots)
                if self._leave(link, invocation_id) and invocation_id in self.calls:
                    self._append(self.calls[invocation_id], 1, warm=False)
                self.tasks.refused(link, invocation_id)
            case TaskEnded(slots=slots):
                if slots is not None:
                    self.warm.told(link.number, slots)
                self.tasks.ended(link, frame)

    def _send_straight(self, request: InvocationRequested) -> bool:
        slot = self.warm.take(request.deployment_id)
        if slot is None:
            return False
        link = self.links[slot.link]
        link.calls[request.invocation_id] = request.attempt
        self.sent[request.invocation_id] = link
        link.to_worker(CallSent(container_id=slot.container_id, shard=0, request=request))
        return True

    def on_probed(self, probe: waiting.Probe, known: CallsKnown) -> None:
        self._wait(
            waiting.ProbeAnswered(
                asked=probe.invocation_ids,
                unknown=known.unknown,
                settled=known.settled,
                asked_at=probe.asked_at,
            )
        )

    def _wait(self, event: Any, *, stored: bool = True) -> None:
        self._stored = stored
        for decision in self.waiting.step(event, self.world.now):
            self._perform(decision)

    def _perform(self, decision: Any) -> None:
        match decision:
            case waiting.Append(invocation_id, attempt):
                self._append(self.calls[invocation_id], attempt)
            case waiting.Deliver():
                call = self.calls[decision.invocation_id]
                for outcome in decision.outcomes:
                    self.world.checks.outcome_delivered(
                        decision.invocation_id, outcome, stored=self._stored
                    )
                call.missing -= {outcome.index for outcome in decision.outcomes}
                if decision.done:
                    self._left(call)
            case waiting.GiveUp():
                call = self.calls[decision.invocation_id]
                call.given_up = decision.error.code
                self.nodes.client.given_up(call)
                self._left(call)
            case waiting.Probe():
                schedulers = list(self.nodes.schedulers())
                if schedulers:
                    scheduler = self.world.rng.choice(schedulers)
                    self.world.send(scheduler, scheduler.on_probe, self, decision)
            case waiting.SendCancel(invocation_id, _) if invocation_id in self.sent:
                self.sent[invocation_id].to_worker(CallCancelled(invocation_id=invocation_id))
            case waiting.SendCancel(invocation_id, _):
                for scheduler in self.nodes.schedulers():
                    self.world.send(scheduler, scheduler.on_cancel, invocation_id)

    def _append(self, call: Call, attempt: int, *, warm: bool = True) -> None:
        self.world.counts["attempts beyond the first"] += attempt > 1
        request = InvocationRequested(
            invocation_id=call.invocation_id,
            workspace=WORKSPACE,
            deployment_id=call.deployment_id,
            inputs=tuple(
                Input(index=index, args=Payload(format=Format.JSON, data=b"{}"))
                for index in range(call.inputs)
            ),
            reply_to=self.instance,
            attempt=attempt,
            priority=call.priority,
            first=attempt == 1 and call.sends == 1,
        )
        waits = self.queued.get(call.deployment_id, 0) > 0
        if warm and not waits and fits_a_link(request) and self._send_straight(request):
            return

        def then(answer: Any) -> None:
            if isinstance(answer, Unanswered):
                self._wait(
                    waiting.AppendFailed(
                        invocation_id=call.invocation_id,
                        attempt=attempt,
                        full=False,
                        message="no answer",
                    )
                )

        self.world.write(self, lambda: self.world.broker.append_call(request), then)

    def _left(self, call: Call) -> None:
        self.admission.step(admission.CallLeft(call.invocation_id), self.world.now)
        self.calls.pop(call.invocation_id, None)


class Call(msgspec.Struct, kw_only=True, eq=False):
    """An interactive call, as its caller knows it."""

    invocation_id: InvocationId
    deployment_id: DeploymentId
    inputs: int
    priority: int
    missing: set[int]
    sends: int = 0
    given_up: str = ""
    refused: bool = False
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        return bool(not self.missing or self.given_up or self.refused)


class Client(Node):
    """All callers: whoever's gateway dies takes the same id to another one."""

    name = "client"
    alive = True

    def __init__(self, world: World, nodes: Nodes) -> None:
        self.world, self.nodes = world, nodes
        self.calls: dict[InvocationId, Call] = {}
        self.accepted: set[InvocationId] = set()
        self.was_ill = world.illness != HEALTHY
        self._made = 0

    def call(self, deployment_id: DeploymentId, inputs: int, priority: int) -> None:
        self._made += 1
        invocation_id = InvocationId(f"inv_{self._made}")
        call = Call(
            invocation_id=invocation_id,
            deployment_id=deployment_id,
            inputs=inputs,
            priority=priority,
            missing=set(range(inputs)),
        )
        self.calls[invocation_id] = call
        self._submit(call)
        if self.world.chance(0.05):
            self.world.later(self.world.rng.uniform(0.0, 2.0), self, self._cancel, call)

    def _submit(self, call: Call) -> None:
        if call.ended or call.cancelled:
            return
        alive = self.nodes.awake_gateways()
        if not alive:
            self.world.later(0.2, self, self._submit, call)
            return
        gateway = self.world.rng.choice(alive)
        call.sends += 1
        call.missing = set(range(call.inputs))  # what the last gateway told went with it
        if not gateway.submit(call):
            call.refused = True
            self.world.counts["refused"] += 1
            return
        self._watch(call, gateway, gateway.life)

    def _watch(self, call: Call, gateway: Gateway, life: int) -> None:
        """The connection breaks when the gateway dies."""
        if call.ended or call.cancelled:
            return
        if not gateway.alive or gateway.life != life:
            self.world.counts["calls taken to another gateway"] += 1
            self._submit(call)
        else:
            self.world.later(0.1, self, self._watch, call, gateway, life)

    def _cancel(self, call: Call) -> None:
        if not call.ended:
            call.cancelled = True
            for gateway in self.nodes.gateways:
                if gateway.alive:
                    gateway.cancel(call.invocation_id)

    def given_up(self, call: Call) -> None:
        """An error of the platform reached a caller: only some are right."""
        world = self.world
        code = call.given_up
        world.counts[f"given up: {code}"] += 1
        flaky = call.deployment_id in self.nodes.flaky
        state = self.nodes.deployment(call.deployment_id).state
        may = {
            "invocation.cancelled": call.cancelled,
            "function.start_failed": flaky,
            "deployment.not_found": state is DeploymentState.DELETED,
            "invocation.lost": self.was_ill,
            "platform.unavailable": self.was_ill,
        }
        world.checks.must(may.get(code), f"C2 {call.invocation_id} was given up: {code}")

    def spawn(self, deployment_id: DeploymentId, priority: int) -> None:
        """Durable: said again until it is known to be accepted."""
        self._made += 1
        record = InvocationRecord(
            invocation_id=InvocationId(f"inv_{self._made}"),
            workspace=WORKSPACE,
            deployment_id=deployment_id,
            input=Input(args=Payload(format=Format.JSON, data=b"{}")),
            state=State.ACCEPTED,
            priority=priority,
            key=_key(deployment_id, self._made),
            rate=self.nodes.rates.get(deployment_id, RateLimit()),
        )
        self._store(record)
        if self.world.chance(0.1):
            self.world.later(self.world.rng.uniform(0.0, 2.0), self, self._cancel_task, record)

    def _store(self, record: InvocationRecord) -> None:
        if record.invocation_id in self.accepted:
            return
        alive = self.nodes.awake_gateways()
        if not alive:
            self.world.later(0.2, self, self._store, record)
            return

        def then(answer: Any) -> None:
            if not isinstance(answer, Unanswered):
                # A conflict says that an earlier try was stored.
                self.accepted.add(record.invocation_id)

        self.world.rng.choice(alive).tasks.put(record, then)
        self.world.later(1.5, self, self._store, record)  # unless it is known by then

    def _cancel_task(self, record: InvocationRecord) -> None:
        alive = self.nodes.awake_gateways()
        if alive and record.invocation_id in self.accepted:
            self.world.rng.choice(alive).tasks.cancel(record.invocation_id)


class Nodes:
    """Everybody, and who dies when."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.checks.nodes = self
        self.habits: dict[DeploymentId, Habits] = {}
        self.flaky: set[DeploymentId] = set()
        self.rates: dict[DeploymentId, RateLimit] = {}
        self.backlog_max = 10**6
        self.workers: list[Worker] = []
        self.autoscaler = AutoscalerNode(world)
        self.gateways = [Gateway(world, self, name) for name in ("gateway-a", "gateway-b")]
        self.client = Client(world, self)
        self._schedulers: list[Scheduler] = []
        self._generation = 0
        self._leaderless = True

    def schedulers(self) -> Iterator[Scheduler]:
        self._schedulers = [each for each in self._schedulers if each.alive]
        return iter(self._schedulers)

    def machines(self) -> Iterator[Any]:
        for scheduler in self.schedulers():
            yield scheduler.dispatcher
            yield scheduler.placement
        if self.autoscaler.alive:
            yield self.autoscaler.machine
        for gateway in self.gateways:
            if gateway.alive:
                yield gateway.admission
                yield gateway.waiting
                yield gateway.warm
                yield gateway.tasks.line

    def worker(self, worker_id: str) -> Worker:
        return next(worker for worker in self.workers if worker.name == worker_id)

    def awake_gateways(self) -> list[Gateway]:
        """Return those that answer a caller."""
        now = self.world.now
        return [one for one in self.gateways if one.alive and one.frozen_until <= now]

    def gateway_of(self, instance: str) -> Gateway | None:
        for gateway in self.gateways:
            if gateway.alive and gateway.instance == instance:
                return gateway
        return None

    def deployment(self, deployment_id: DeploymentId) -> Deployment:
        return self.world.broker.deployments[deployment_id]

    def start(self) -> None:
        for worker in self.workers:
            worker.start()
        self.take_over()
        self.autoscaler.start()
        for gateway in self.gateways:
            gateway.start()

    def take_over(self) -> None:
        self._generation += 1
        self._leaderless = False
        scheduler = Scheduler(self.world, self, self._generation)
        self._schedulers.append(scheduler)
        scheduler.start()

    def delete(self, deployment_id: DeploymentId) -> None:
        self.world.tell(f"{deployment_id} is deleted")
        deployment = self.deployment(deployment_id)
        gone = msgspec.structs.replace(deployment, state=DeploymentState.DELETED)
        self.world.broker.put_deployment(gone)

    # -- Deaths ---------------------------------------------------------------------------------

    def let_somebody_die(self) -> None:
        world = self.world
        if world.chance(world.illness.freezes):
            self._freeze()
            return
        kill = world.rng.choice(
            [self._kill_scheduler, self._kill_worker, self._kill_gateway, self._kill_autoscaler]
        )
        kill()

    def _freeze(self) -> None:
        """Stop somebody for a while, as a machine that stalls: nothing is lost, all of it comes late."""
        world = self.world
        everybody = (*self.workers, *self.gateways, self.autoscaler)
        nodes = [one for one in everybody if one.alive and one.frozen_until <= world.now]
        if nodes:
            node = world.rng.choice(nodes)
            node.frozen_until = world.now + world.rng.uniform(*FROZEN_S)
            world.counts["frozen"] += 1
            world.tell(f"{node.name} is stopped until @{node.frozen_until:.3f}")

    def _kill_scheduler(self) -> None:
        world = self.world
        if self._leaderless:
            return
        self._leaderless = True
        zombie = world.chance(world.illness.zombies)
        for scheduler in self.schedulers():
            world.tell(f"{scheduler.name} {'goes on as a zombie' if zombie else 'dies'}")
            if zombie:
                world.later(world.rng.uniform(0.5, 3.0), scheduler, self._bury, scheduler)
            else:
                scheduler.alive = False
        world.later(world.rng.uniform(*TAKEOVER_S), world.broker, self.take_over)

    @staticmethod
    def _bury(scheduler: Scheduler) -> None:
        scheduler.alive = False

    def _kill_worker(self) -> None:
        alive = [worker for worker in self.workers if worker.alive]
        if len(alive) > 1:
            self._kill(self.world.rng.choice(alive), 0.3, 9.0)

    def _kill_gateway(self) -> None:
        alive = [gateway for gateway in self.gateways if gateway.alive]
        if alive:
            self._kill(self.world.rng.choice(alive), 0.1, 3.0)

    def _kill_autoscaler(self) -> None:
        if self.autoscaler.alive:
            self._kill(self.autoscaler, *TAKEOVER_S)

    def _kill(self, node: Any, least_s: float, most_s: float) -> None:
        self.world.tell(f"{node.name} is killed")
        if isinstance(node, Worker):
            node.die()
        node.alive, node.frozen_until = False, 0.0
        if isinstance(node, Gateway):
            for link in list(node.links.values()):
                link.end()
        self.world.later(
            self.world.rng.uniform(least_s, most_s), self.world.broker, self._revive, node
        )

    @staticmethod
    def _revive(node: Any) -> None:
        if not node.alive:
            node.start()


def _key(deployment_id: DeploymentId, number: int) -> KeyLimit:
    """Return what may run beside a durable invocation: half of them have no key."""
    kind = number % 4
    if kind == 0:
        return KeyLimit(key=f"{deployment_id}/fifo", ordered=True)
    return KeyLimit(key="everybody", limit=2) if kind == 1 else KeyLimit()


def seen_of(sequence: int, record: InvocationRecord) -> dispatch.RecordSeen:
    """Return a record's news."""
    return dispatch.RecordSeen(
        record.invocation_id,
        record.workspace,
        record.deployment_id,
        record.state,
        sequence,
        attempt=record.attempt,
        lost_attempts=record.lost_attempts,
        priority=record.priority,
        due_at=record.due_at,
        worker_id=record.worker_id,
        container_id=record.container_id,
        order=record.order,
        key=record.key.key,
        key_limit=0 if record.key.ordered else record.key.limit,
        rate_count=record.rate.count,
        rate_period_s=record.rate.period_s,
        started_at=record.started_at,
        then=record.then,
        after_count=len(record.after),
        after_if=record.after_if,
    )
