"""A stage for golden decision scripts: the scheduler's and the autoscaler's machines, and props.

The machines are the real ones; workers are props that take every bind, and whose containers get ready
and whose invocations end when the script says so. Messages take no time and are never lost. What the
machines decide is written down, one line each, with names that a reader can follow.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

import msgspec
from glowplug_autoscaler.decide import Autoscaler, CaughtUp
from glowplug_autoscaler.decide import Ticked as AutoscalerTicked
from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId
from glowplug_contracts.messages.container import (
    BindContainer,
    ContainerChanged,
    ContainerState,
    ContainerWanted,
)
from glowplug_contracts.messages.deployment import Deployment, DeploymentState, Resources
from glowplug_contracts.messages.dispatch import AttemptEnded
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InvocationRequested,
    Payload,
    RemoteError,
    State,
)
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import ContainerView, GpuDevice, WorkerBeat
from glowplug_sandbox.session import wanted_of
from glowplug_scheduler import dispatch, place

from tests.support.builders_sandbox import a_session
from tests.support.builders_scale import WORKSPACE, a_deployment

STEP_S = 0.05
BEAT_EVERY = 20  # steps
MIB = 1024**2
UNITS = {"M": MIB, "G": 1024 * MIB}
NO_ARGS = (Input(args=Payload(format=Format.JSON, data=b"{}")),)


class Prop(msgspec.Struct):
    """A container on a worker."""

    name: str
    bind: BindContainer
    worker: str
    state: ContainerState = ContainerState.BOUND
    in_flight: list[str] = []
    stop_reason: str = ""


class Props(msgspec.Struct):
    """A worker."""

    name: str
    cpu_millis: int
    memory_bytes: int
    gpus: tuple[GpuDevice, ...]
    beats: int = 0
    alive: bool = True
    draining: bool = False


class Stage:
    """Runs commands and writes down what was decided."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.lines: list[str] = []
        self.workers: dict[str, Props] = {}
        self.containers: dict[ContainerId, Prop] = {}
        self.deployments: dict[DeploymentId, Deployment] = {}
        self.calls: dict[str, InvocationRequested] = {}
        self.unacked: dict[int, InvocationRequested] = {}
        self.records: dict[str, dispatch.RecordSeen] = {}
        self.targets: dict[DeploymentId, ScaleDecided] = {}
        self.wanted: dict[ContainerId, ContainerWanted] = {}
        self.generation = 0
        self.sequence = 0
        self.names: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._take_over()
        self.pass_time(1.6)  # placement first only watches
        self.lines.clear()
        self.now = 0.0
        self._zero = self.machine_now

    # -- The script -----------------------------------------------------------------------------

    def run(self, line: str) -> list[str]:
        """Run one command; return what it led to."""
        verb, *words = shlex.split(line, comments=True)
        command: Callable[..., None] = getattr(self, f"do_{verb}")
        plain = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        self.lines = []
        command(*plain, **options)
        self._check()
        return self.lines

    def do_worker(
        self, name: str, cpu: str = "4", memory: str = "8G", gpu: str = "", draining: str = ""
    ) -> None:
        """A worker appears, or changes what it offers."""
        gpus = tuple(
            GpuDevice(gpu_id=f"{name}/gpu{n}", kind=kind, memory_bytes=80 * UNITS["G"])
            for n, kind in enumerate(filter(None, gpu.split(",")))
        )
        known = self.workers.get(name)
        self.workers[name] = Props(name, round(float(cpu) * 1000), size(memory), gpus)
        self.workers[name].beats = known.beats if known else 0
        self.workers[name].draining = bool(draining)
        self._beat(self.workers[name])

    def do_deploy(
        self,
        name: str,
        *,
        min: str = "0",  # noqa: A002 - the script's words
        max: str = "1",  # noqa: A002
        buffer: str = "0",
        tpc: str = "1",
        warm: str = "10",
        cpu: str = "1",
        memory: str = "128M",
        gpu: str = "",
        gpus: str = "",
        slots: str = "1",
        latest: str = "yes",
        ephemeral: str = "no",
    ) -> None:
        """A version of a function is stored (or changes its place)."""
        kinds = tuple(filter(None, gpu.split(",")))
        resources = Resources(
            cpu_millis=round(float(cpu) * 1000),
            memory_bytes=size(memory),
            gpus=kinds,
            gpu_count=int(gpus or bool(kinds)),
        )
        deployment = a_deployment(
            name,
            minimum=int(min),
            maximum=int(max),
            buffer=int(buffer),
            tasks_per_container=int(tpc),
            keep_warm_s=float(warm),
            resources=resources,
            concurrency=int(slots),
            latest=latest == "yes",
            ephemeral=ephemeral == "yes",
        )
        self.names[deployment.deployment_id] = name
        self.deployments[deployment.deployment_id] = deployment
        self._deployment_changed(deployment)

    def do_delete(self, name: str) -> None:
        """A deployment is deleted."""
        deployment = a_deployment(name, deleted=True)
        self.deployments[deployment.deployment_id] = deployment
        self._deployment_changed(deployment)

    def do_invoke(
        self, name: str, times: str = "x1", *, priority: str = "0", inputs: str = "1"
    ) -> None:
        """Interactive calls arrive."""
        for _ in range(int(times[1:])):
            self.sequence += 1
            invocation_id = InvocationId(f"i{self._count('i')}")
            request = InvocationRequested(
                invocation_id=invocation_id,
                workspace=WORKSPACE,
                deployment_id=DeploymentId(f"dep_{name}"),
                inputs=NO_ARGS * int(inputs),
                reply_to="gateway",
                priority=int(priority),
            )
            self.unacked[self.sequence] = request
            self._dispatch(dispatch.RequestArrived(request, self.sequence, 100))

    def do_spawn(
        self,
        name: str,
        times: str = "x1",
        *,
        priority: str = "0",
        due: str = "",
        key: str = "",
        limit: str = "1",
        fifo: str = "",
        rate: str = "0/1",
    ) -> None:
        """Durable invocations are accepted; `key` and `fifo` say what may run beside them."""
        count, _, period = rate.partition("/")
        for _ in range(int(times[1:])):
            seen = dispatch.RecordSeen(
                InvocationId(f"d{self._count('d')}"),
                WORKSPACE,
                DeploymentId(f"dep_{name}"),
                State.ACCEPTED,
                0,
                priority=int(priority),
                due_at=self.machine_now + seconds(due) if due else 0.0,
                key=fifo or key,
                key_limit=0 if fifo else int(limit),
                rate_count=int(count),
                rate_period_s=float(period),
            )
            self._record(seen)

    def do_sandbox(self, name: str, cpu: str = "1") -> None:
        """A container is wanted by name."""
        resources = Resources(cpu_millis=round(float(cpu) * 1000))
        spec = msgspec.structs.replace(wanted_of(a_session()).spec, resources=resources)
        wanted = ContainerWanted(container_id=ContainerId(name), spec=spec)
        self.wanted[wanted.container_id] = wanted
        self.names[wanted.container_id] = name
        self._place(place.WantedSeen(wanted.container_id, wanted))

    def do_unwant(self, name: str) -> None:
        """Nobody wants it any more."""
        self.wanted.pop(ContainerId(name))
        self._place(place.WantedSeen(ContainerId(name), None))

    def do_ready(self, *names: str) -> None:
        """Containers (all that start, unless named) get ready."""
        for prop in list(self.containers.values()):
            if prop.state is ContainerState.STARTING and (not names or prop.name in names):
                self._move(prop, ContainerState.READY)

    def do_fail(self, name: str, *, why: str = "start_failed") -> None:
        """A container fails."""
        prop = self._named(name)
        error = RemoteError(code="function.start_failed", type="ImportError", message="no module x")
        at_start = why == "start_failed"
        self._move(prop, ContainerState.FAILED, reason=why, error=error if at_start else None)

    def do_end(self, *names: str) -> None:
        """Invocations (all that run, unless named) end well."""
        for prop in list(self.containers.values()):
            for invocation_id in [i for i in prop.in_flight if not names or i in names]:
                self._end(prop, invocation_id)

    def do_retry(self, *names: str, due: str = "0s") -> None:
        """Attempts of durable invocations fail, and are to be made again."""
        for prop in list(self.containers.values()):
            for invocation_id in [i for i in prop.in_flight if not names or i in names]:
                prop.in_flight.remove(invocation_id)
                seen = self.records[InvocationId(invocation_id)]
                due_at = self.machine_now + seconds(due)
                self._record(msgspec.structs.replace(seen, state=State.RETRY_WAIT, due_at=due_at))
                ended_ids = (InvocationId(invocation_id),)
                ended = AttemptEnded(container_id=prop.bind.container_id, invocation_ids=ended_ids)
                self._dispatch(dispatch.Ended(ended))

    def do_cancel(self, name: str) -> None:
        """A caller goes away."""
        self._dispatch(dispatch.CancelAsked(InvocationId(name)))

    def do_die(self, name: str) -> None:
        """A worker's host loses its power."""
        worker = self.workers[name]
        worker.alive = False
        for container_id in [c for c, p in self.containers.items() if p.worker == name]:
            del self.containers[container_id]

    def do_tick(self, duration: str) -> None:
        """Time passes."""
        self.pass_time(seconds(duration))

    def do_takeover(self) -> None:
        """Scheduler and autoscaler are killed; others take over."""
        self._take_over()

    def do_explain(self) -> None:
        """Write down where everything is."""
        for deployment_id, deployment in sorted(self.deployments.items()):
            self._explain(deployment_id, deployment)
        for container_id in sorted(self.wanted):
            self.say(f"{container_id}: {self._where(container_id)}", timed=False)

    # -- Time -----------------------------------------------------------------------------------

    @property
    def machine_now(self) -> float:
        return self.steps * STEP_S

    def pass_time(self, duration_s: float) -> None:
        for _ in range(round(duration_s / STEP_S)):
            self.steps += 1
            self.now = self.machine_now - getattr(self, "_zero", 0.0)
            if self.steps % BEAT_EVERY == 0:
                for worker in list(self.workers.values()):
                    if worker.alive:
                        self._beat(worker)
            self._dispatch(dispatch.Tick())
            if self.steps % 4 == 0:
                self._place(place.Tick())
                self._autoscale(AutoscalerTicked())

    def say(self, line: str, *, timed: bool = True) -> None:
        self.lines.append(f"@{self.now:.1f} {line}" if timed else line)

    # -- The machines ---------------------------------------------------------------------------

    def _take_over(self) -> None:
        self.generation += 1
        self.dispatcher = dispatch.Dispatcher(0, 1)
        self.placement = place.Placement()
        self.autoscaler = Autoscaler(self.generation)
        self._dispatch(dispatch.ShardTaken(self.generation))
        for deployment in self.deployments.values():
            self._deployment_changed(deployment)
        for decided in list(self.targets.values()):
            self._autoscale(decided)
            self._place(place.TargetDecided(decided))
        for wanted in self.wanted.values():
            self._place(place.WantedSeen(wanted.container_id, wanted))
        salt = self.generation.to_bytes(16)
        self._place(place.LeaseTaken(self.generation, salt))
        for worker in self.workers.values():
            if worker.alive:
                self._beat(worker)
        for seen in sorted(self.records.values(), key=lambda seen: seen.sequence):
            self._dispatch(seen)
        self._dispatch(dispatch.RecordsRead())
        for sequence, request in list(self.unacked.items()):
            self._dispatch(dispatch.RequestArrived(request, sequence, 100))
        self._autoscale(CaughtUp())

    def _dispatch(self, event: dispatch.Event) -> None:
        for decision in self.dispatcher.step(event, self.machine_now):
            self._perform(decision)

    def _place(self, event: place.Event) -> None:
        for decision in self.placement.step(event, self.machine_now):
            self._perform(decision)

    def _autoscale(self, event: object) -> None:
        for decision in self.autoscaler.step(event, self.machine_now):  # type: ignore[arg-type]
            name = self.names[decision.deployment_id]
            change = f"{decision.previous} -> {decision.target} ({decision.reason})"
            self.say(f"scale {name} {change}{told_failing(decision)}")
            self.targets[decision.deployment_id] = decision
            if decision.target < decision.previous:
                self._place(place.LoadsSeen(dict(self.dispatcher.loads())))
            self._place(place.TargetDecided(decision))

    def _perform(self, decision: object) -> None:
        match decision:
            case dispatch.AnnounceBacklog(backlog):
                self._autoscale(backlog)
            case dispatch.Hand():
                self._hand(decision)
            case dispatch.Ack(sequence):
                self.unacked.pop(sequence, None)
            case dispatch.SendLost():
                self.say(f"lost {decision.invocation_id} ({decision.cause})")
            case dispatch.WriteRecord():
                self._write(decision)
            case dispatch.ForwardCancel():
                self.say(f"cancel {decision.invocation_id} on {decision.worker_id}")
            case place.Bind():
                self._bind(decision)
            case place.Stop():
                self._stop(decision)
            case place.Publish(decided) if decided.decision == "parked":
                why = ", ".join(f"{w}: {r}" for w, r in sorted(decided.reasons.items()))
                key = (
                    decided.container_id if decided.deployment_id == "-" else decided.deployment_id
                )
                self.say(f"park {self.names.get(key, key)} ({why})")
            case place.Bury(change):
                self.say(f"bury {self.names[change.container_id]}")
                self._container_changed(change)
            case dispatch.AskWorker(worker_id):
                self._ask(worker_id)

    def _ask(self, worker_id: WorkerId) -> None:
        if not self.workers[worker_id].alive:
            self.say(f"ask {worker_id}: nobody listens")
            self._dispatch(dispatch.WorkerUnreachable(worker_id))
            self._place(place.WorkerUnreachable(worker_id))

    # -- The props ------------------------------------------------------------------------------

    def _bind(self, decision: place.Bind) -> None:
        bind = decision.bind
        if bind.container_id not in self.names:
            function = self.names[bind.spec.deployment_id]
            self.names[bind.container_id] = f"{function}.{self._count(function)}"
        name = self.names[bind.container_id]
        gpus = f" {' '.join(bind.gpu_ids)}" if bind.gpu_ids else ""
        self.say(f"bind {name} to {decision.worker_id}{gpus}")
        if not self.workers[decision.worker_id].alive:
            refused = place.BindAnswered(
                bind.container_id, decision.worker_id, "refused", "unreachable"
            )
            self._place(refused)
            return
        prop = self.containers[bind.container_id] = Prop(name, bind, decision.worker_id)
        self._place(place.BindAnswered(bind.container_id, decision.worker_id, "accepted"))
        self._move(prop, ContainerState.STARTING)

    def _stop(self, decision: place.Stop) -> None:
        prop = self.containers.get(decision.stop.container_id)
        if prop is None:
            return
        if not prop.stop_reason:
            self.say(f"stop {prop.name} ({decision.stop.reason})")
        prop.stop_reason = decision.stop.reason
        self._stop_if_idle(prop)

    def _stop_if_idle(self, prop: Prop) -> None:
        if not prop.in_flight:
            self._move(prop, ContainerState.STOPPED, reason=prop.stop_reason)
        elif prop.state is not ContainerState.DRAINING:
            self._move(prop, ContainerState.DRAINING)

    def _move(
        self,
        prop: Prop,
        state: ContainerState,
        *,
        reason: str = "",
        error: RemoteError | None = None,
    ) -> None:
        prop.state = state
        spec = prop.bind.spec
        change = ContainerChanged(
            container_id=prop.bind.container_id,
            deployment_id=spec.deployment_id or DeploymentId("-"),
            worker_id=WorkerId(prop.worker),
            workspace=WORKSPACE,
            kind=spec.kind,
            state=state,
            slots=spec.processes * spec.concurrency if state is ContainerState.READY else 0,
            reason=reason,
            error=error,
        )
        if state in {ContainerState.STOPPED, ContainerState.FAILED}:
            del self.containers[prop.bind.container_id]
        self._container_changed(change)

    def _container_changed(self, change: ContainerChanged) -> None:
        self._autoscale(change)
        self._dispatch(dispatch.ContainerMoved(change))
        self._place(place.ContainerMoved(change))

    def _hand(self, hand: dispatch.Hand) -> None:
        self.unacked.pop(hand.sequence, None)
        prop = self.containers.get(hand.container_id)
        self.say(f"hand {hand.invocation_id} to {self.names[hand.container_id]}")
        if prop is None:
            return  # its worker died a moment ago: beats will tell
        prop.in_flight.append(hand.invocation_id)
        if hand.durable:
            seen = self.records[hand.invocation_id]
            self._record(
                msgspec.structs.replace(
                    seen,
                    state=State.RUNNING,
                    attempt=seen.attempt + 1,
                    started_at=self.machine_now,
                    order=seen.order or seen.sequence,
                    worker_id=hand.worker_id,
                    container_id=hand.container_id,
                )
            )

    def _end(self, prop: Prop, invocation_id: str) -> None:
        prop.in_flight.remove(invocation_id)
        seen = self.records.pop(invocation_id, None)
        if seen is not None:
            self.sequence += 1
            ended = msgspec.structs.replace(seen, state=State.SUCCEEDED, sequence=self.sequence)
            self._dispatch(ended)
        ended_ids = (InvocationId(invocation_id),)
        self._dispatch(
            dispatch.Ended(
                AttemptEnded(container_id=prop.bind.container_id, invocation_ids=ended_ids)
            )
        )
        if prop.stop_reason:
            self._stop_if_idle(prop)

    def _record(self, seen: dispatch.RecordSeen) -> None:
        self.sequence += 1
        stored = msgspec.structs.replace(seen, sequence=self.sequence)
        self.records[seen.invocation_id] = stored
        self._dispatch(stored)

    def _write(self, write: dispatch.WriteRecord) -> None:
        seen = self.records[write.invocation_id]
        self.say(f"record {write.invocation_id} {write.state} ({write.cause})")
        retried = write.state is State.RETRY_WAIT
        self._record(
            msgspec.structs.replace(
                seen, state=write.state, lost_attempts=seen.lost_attempts + retried
            )
        )

    def _beat(self, worker: Props) -> None:
        worker.beats += 1
        beat = WorkerBeat(
            worker_id=WorkerId(worker.name),
            beat=worker.beats,
            started_at=0.0,
            host=worker.name,
            cpu_millis=worker.cpu_millis,
            memory_bytes=worker.memory_bytes,
            gpus=worker.gpus,
            draining=worker.draining,
            pythons=("3.11",),
            containers=tuple(
                _view(prop) for prop in self.containers.values() if prop.worker == worker.name
            ),
        )
        self._autoscale(beat)
        self._dispatch(dispatch.BeatHeard(beat))
        self._place(place.BeatHeard(beat))

    def _tell_dispatcher(self, deployment: Deployment) -> None:
        deleted = deployment.state is DeploymentState.DELETED
        self._dispatch(dispatch.DeploymentMoved(deployment.deployment_id, deleted))

    def _deployment_changed(self, deployment: Deployment) -> None:
        self._tell_dispatcher(deployment)
        self._place(place.DeploymentSeen(deployment.deployment_id, deployment))
        self._autoscale(deployment)

    # -- Reading --------------------------------------------------------------------------------

    def _explain(self, deployment_id: DeploymentId, deployment: Deployment) -> None:
        decided = self.targets.get(deployment_id)
        queue = self.dispatcher.state.queues.get(deployment_id)
        mine = [p for c, p in self.containers.items() if p.bind.spec.deployment_id == deployment_id]
        held = ", ".join(
            f"{p.name} {p.state} on {p.worker}"
            + (f" [{' '.join(p.in_flight)}]" if p.in_flight else "")
            for p in mine
        )
        waiting = queue.queued_inputs if queue else 0
        self.say(
            f"{deployment.spec.name}: target {decided.target if decided else 0}, "
            f"waiting {waiting}, containers: {held or 'none'}",
            timed=False,
        )
        parked = self.placement.state.parked.get(deployment_id)
        if parked is not None:
            why = ", ".join(f"{w}: {r}" for w, r in sorted((parked.reasons or {}).items()))
            self.say(f"  parked since @{parked.since - self._zero:.1f} ({why})", timed=False)

    def _where(self, container_id: ContainerId) -> str:
        prop = self.containers.get(container_id)
        return f"{prop.state} on {prop.worker}" if prop else "nowhere"

    def _named(self, name: str) -> Prop:
        return next(prop for prop in self.containers.values() if prop.name == name)

    def _count(self, what: str) -> int:
        self.counts[what] = self.counts.get(what, 0) + 1
        return self.counts[what]

    def _check(self) -> None:
        self.dispatcher.check()
        self.placement.check()
        self.autoscaler.check()


def _view(prop: Prop) -> ContainerView:
    spec = prop.bind.spec
    slots = spec.processes * spec.concurrency if prop.state is ContainerState.READY else 0
    return ContainerView(
        container_id=prop.bind.container_id,
        deployment_id=spec.deployment_id,
        workspace=WORKSPACE,
        kind=spec.kind,
        state=prop.state,
        resources=spec.resources,
        slots=slots,
        gpu_ids=prop.bind.gpu_ids,
        in_flight=tuple(InvocationId(i) for i in prop.in_flight),
    )


def told_failing(decision: ScaleDecided) -> str:
    """What a decision says of containers that fail one after the other."""
    said = decision.failing
    return f", {said.why} {said.in_a_row} in a row, held {said.held_s:.0f} s" if said else ""


def size(text: str) -> int:
    return round(float(text[:-1]) * UNITS[text[-1]])


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))
