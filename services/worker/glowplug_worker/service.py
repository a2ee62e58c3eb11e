"""The worker's doors: what it hears from the bus, and what it says about itself.

Sixth and seventh step of the journey. Messages become calls on the supervisors of containers; the
checks here are the fences: generations of placement and of shards, capacity, and draining.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import ContainerId, InvocationId
from glowplug_contracts.messages.container import (
    BindContainer,
    BindReply,
    CommitLayer,
    ContainerKind,
    ExecEvent,
    ExecInContainer,
    ExecReply,
    LayerCommitted,
    StopContainer,
)
from glowplug_contracts.messages.dispatch import (
    AttemptEnded,
    AttemptRefused,
    AttemptsBegan,
    CancelInvocation,
    InvocationFacts,
    RunInvocation,
    ShardOwned,
)
from glowplug_contracts.messages.invocation import RemoteError, StreamCredit
from glowplug_contracts.messages.link import CallCancelled, CallSent, TaskSent
from glowplug_contracts.messages.worker import (
    ContainerView,
    ForgetTemplates,
    WorkerBeat,
    WorkerOrder,
)
from glowplug_contracts.subjects import (
    BEGAN,
    BIND,
    CANCEL_ATTEMPT,
    COMMIT,
    ENDED,
    EXEC,
    EXEC_REPLY,
    FACTS,
    FORGET,
    REFUSED,
    RUN,
    SHARD_OWNED,
    STOP,
    STREAM_CREDIT,
    WORKER_BEAT,
    WORKER_ORDER,
)
from glowplug_runtime.bus import Delivery

from glowplug_worker.capacity import Offer, refuse_for_capacity
from glowplug_worker.duty import Duty
from glowplug_worker.evidence import unheld
from glowplug_worker.images.host import this_host
from glowplug_worker.interactive import InteractiveFlight
from glowplug_worker.launch import limits_of
from glowplug_worker.notices import EVERY_S
from glowplug_worker.opening import open_build_secrets
from glowplug_worker.ports import ChangedRoot, Enforced, Pushed, Room
from glowplug_worker.processes import parent_of, tree_pss_bytes
from glowplug_worker.runtime.rooted.changes import CHANGES
from glowplug_worker.sent import SentFlight, is_ours
from glowplug_worker.slots import Refusal
from glowplug_worker.supervisor import Supervisor
from glowplug_worker.workshop import Workshop

log = structlog.get_logger()

BEAT_S: Final = 1.0
# What changed is told so soon, one beat for all that changes until then. Not so soon after another beat where many
# containers live: each of them is in every beat, and a burst of starts must not go into telling of it.
BEAT_SOON_S: Final = 0.01
BEAT_APART_EACH_S: Final = 0.001
TICK_S: Final = 0.1
FACTS_S: Final = 0.2
FACTS_BATCH: Final = 500
MEMORY_POLL_S: Final = 0.5
# What ending a tree may take after its grace, and again after SIGKILL.
END_S: Final = 3.0
ENDED_KEPT_MAX: Final = 1000
CONTAINERS_MAX: Final = 1000
# Of trees that it has for other workers, a beat tells of so many, the latest used.
TREES_TOLD_MAX: Final = 64


class WorkerService:
    """One worker."""

    def __init__(
        self,
        workshop: Workshop,
        renew_offer: Callable[[int, int], Offer],
        *,
        pool: str,
        started_at: float,
    ) -> None:
        self.workshop = workshop
        self._renew_offer = renew_offer
        self.offer = renew_offer(0, 0)
        self.supervisors: dict[ContainerId, Supervisor] = {}
        self.draining = False
        self.duty = Duty(workshop.directory)
        self._pool = pool
        self._started_at = started_at
        self._beat = 0
        self._beat_due = False
        self._beaten_at = float("-inf")
        self._placement_generation = 0
        self._shard_generations: dict[int, int] = {}
        self._warned: set[Enforced] = set()
        self._one_ended = asyncio.Event()
        workshop.gpus.on_broken = self._on_gpu_broken
        self._ended: dict[ContainerId, None] = {}
        self._gone = False

    @property
    def rooms(self) -> Mapping[ContainerId, Supervisor]:
        """Return the containers that live here."""
        return self.supervisors

    # -- life -----------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Open every door."""
        self.workshop.changes.listen(self.on_change)
        self.workshop.notices.listen(self._notice_soon)
        self.workshop.images.listen(self._on_images_lost)
        bus, worker_id = self.workshop.bus, self.workshop.worker_id
        await bus.listen(RUN.pattern(worker_id=worker_id), self.on_run)
        await bus.listen(CANCEL_ATTEMPT.pattern(worker_id=worker_id), self.on_cancel)
        await bus.listen(STREAM_CREDIT.pattern(), self.on_stream_credit)
        await bus.listen(STOP.pattern(worker_id=worker_id), self.on_stop)
        await bus.listen(EXEC.pattern(worker_id=worker_id), self.on_exec)
        await bus.listen(COMMIT.pattern(worker_id=worker_id), self.on_commit)
        await bus.listen(SHARD_OWNED.pattern(), self.on_shard_owned)
        await bus.listen(WORKER_ORDER.pattern(worker_id=worker_id), self.on_order)
        await bus.listen(FORGET.pattern(worker_id=worker_id), self.on_forget)
        await bus.listen(BIND.pattern(worker_id=worker_id), self.on_bind)

    async def drain(self, grace_s: float) -> None:
        """Take nothing more, stop every container, and return when all are gone."""
        self.draining = True
        await self.send_beat()
        for grace, wait_s in ((grace_s, grace_s + END_S), (0.0, END_S)):
            for supervisor in list(self.supervisors.values()):
                supervisor.stop(grace, "worker_stopping")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wait_until_empty()
                    await self.workshop.outbox.emptied()
        await self.send_facts()
        await self.send_beat()
        self._gone = True

    async def _wait_until_empty(self) -> None:
        while self.supervisors:
            self._one_ended.clear()
            await self._one_ended.wait()

    # -- work -----------------------------------------------------------------------------------

    async def on_run(self, delivery: Delivery[RunInvocation]) -> None:
        """Take an invocation, or give it back with the reason."""
        message = delivery.message
        if message is None:
            return
        invocation_id = _invocation_of(message)
        supervisor = self.supervisors.get(message.container_id)
        known = self._shard_generations.get(message.shard, 0)
        if message.generation < known:
            await self._refuse(message, invocation_id, "stale")
        elif supervisor is None:
            await self._refuse(message, invocation_id, "unknown")
        elif (flight := self._find_flight(invocation_id)) is not None:
            await self._adopt(message, invocation_id, flight)
        else:
            self._shard_generations[message.shard] = message.generation
            taken = supervisor.run(message, invocation_id)
            if isinstance(taken, Refusal):
                await self._refuse(message, invocation_id, taken.value)

    def take_call(self, frame: CallSent) -> str:
        """Take a call that its gateway sent straight here; return "" or why not."""
        request = frame.request
        invocation_id = request.invocation_id
        supervisor = self.supervisors.get(frame.container_id)
        if supervisor is None:
            return "unknown"
        spec = supervisor.binding.spec
        if (spec.deployment_id, spec.workspace) != (request.deployment_id, request.workspace):
            return "unknown"
        flight = self._find_flight(invocation_id)
        if flight is not None:
            return "known"
        run = RunInvocation(
            shard=frame.shard,
            generation=0,
            container_id=frame.container_id,
            deployment_id=request.deployment_id,
            request=request,
            workspace=request.workspace,
        )
        taken = supervisor.run(run, invocation_id, direct=True)
        if isinstance(taken, Refusal):
            return taken.value
        self.workshop.notices.began(frame.shard, frame.container_id, invocation_id)
        return ""

    def take_task(self, frame: TaskSent, gateway: str) -> str:
        """Take durable work that its gateway has stored as running here; return "" or why not."""
        record, supervisor = frame.record, self.supervisors.get(frame.container_id)
        if supervisor is None or not is_ours(
            record, supervisor.binding.spec, self.workshop.worker_id, frame.container_id
        ):
            return "unknown"
        flight = self._find_flight(record.invocation_id)
        if flight is not None:
            return "" if isinstance(flight, SentFlight) and flight.is_of(frame) else "known"
        taken = supervisor.run_sent(frame, gateway)
        return taken.value if isinstance(taken, Refusal) else ""

    def cancel_call(self, frame: CallCancelled) -> None:
        """Stop a call that its gateway sent straight here."""
        flight = self._find_flight(frame.invocation_id)
        if flight is not None:
            flight.cancel()

    def _notice_soon(self) -> None:
        asyncio.get_running_loop().call_later(EVERY_S, self._notice_now)

    def _notice_now(self) -> None:
        if not self._gone:
            self.workshop.spawn(self._send_notices(), "notices")

    async def _send_notices(self) -> None:
        """Tell shards what began and ended without them."""
        bus = self.workshop.bus
        for notice in self.workshop.notices.take():
            container_id, shard = notice.container_id, notice.shard
            if notice.began or notice.passed:
                began = AttemptsBegan(
                    container_id=container_id,
                    invocation_ids=notice.began,
                    passed=notice.passed,
                    peak=notice.peak,
                )
                await bus.send(BEGAN.at(shard=shard), began)
            if notice.ended:
                ended = AttemptEnded(container_id=container_id, invocation_ids=notice.ended)
                await bus.send(ENDED.at(shard=shard), ended)

    async def on_cancel(self, delivery: Delivery[CancelInvocation]) -> None:
        """Stop an invocation that runs here."""
        message = delivery.message
        flight = None if message is None else self._find_flight(message.invocation_id)
        if flight is not None:
            flight.cancel()

    async def on_stream_credit(self, delivery: Delivery[StreamCredit]) -> None:
        """Let a stream go on."""
        message = delivery.message
        flight = None if message is None else self._find_flight(message.invocation_id)
        if message is not None and isinstance(flight, InteractiveFlight):
            flight.grant(message.until)

    async def on_shard_owned(self, delivery: Delivery[ShardOwned]) -> None:
        """A new dispatcher wants to know what runs; an older one is not listened to any more."""
        message = delivery.message
        if message is not None:
            known = self._shard_generations.get(message.shard, 0)
            self._shard_generations[message.shard] = max(known, message.generation)
            await self.send_beat()

    # -- containers -----------------------------------------------------------------------------

    async def on_bind(self, delivery: Delivery[BindContainer]) -> None:
        """Take a container, or say why not."""
        message = delivery.message
        if message is None or delivery.answer is None:
            return
        reason = self._refuse_binding(message)
        await delivery.answer(BindReply(accepted=not reason, reason=reason))
        if not reason and message.container_id not in self.supervisors:
            self._warn_about_limits(message)
            supervisor = Supervisor(self.workshop, message, self._forget)
            self.supervisors[message.container_id] = supervisor
            supervisor.begin()

    async def on_stop(self, delivery: Delivery[StopContainer]) -> None:
        """End a container."""
        message = delivery.message
        if message is None or message.generation < self._placement_generation:
            return
        self._placement_generation = message.generation
        supervisor = self.supervisors.get(message.container_id)
        if supervisor is not None:
            supervisor.stop(max(0.0, message.grace_s), message.reason or "scaled_in")

    async def on_forget(self, delivery: Delivery[ForgetTemplates]) -> None:
        """Deployments are over."""
        if delivery.message is not None and self.workshop.templates is not None:
            self.workshop.templates.forget(delivery.message.deployment_ids)

    async def on_order(self, delivery: Delivery[WorkerOrder]) -> None:
        """An operator takes this worker out of service, or back into it."""
        if delivery.message is None or delivery.answer is None:
            return
        now = self.workshop.clock.now()
        ordered = self.duty.take(delivery.message, list(self.supervisors.values()), now)
        log.warning("worker.ordered", order=delivery.message.order, cordoned=ordered.cordoned)
        await delivery.answer(ordered)
        self.beat_soon()

    async def on_exec(self, delivery: Delivery[ExecInContainer]) -> None:
        """Run something in a sandbox or build."""
        message = delivery.message
        if message is None or delivery.answer is None:
            return
        if message.secrets:
            opened = self._exec_opened(message, delivery.answer)
            self.workshop.spawn(opened, "open secrets of a step")
        else:
            await delivery.answer(self._exec(message, {}))

    async def _exec_opened(self, message: ExecInContainer, answer: Callable[[Any], Any]) -> None:
        """Run a build's step that has secrets."""
        try:
            gateways = self.workshop.gateways
            opened = await open_build_secrets(gateways, message.asks, message.secrets)
        except PlatformError as error:
            await answer(ExecReply(accepted=False, reason=error.message))
        else:
            await answer(self._exec(message, opened))

    def _exec(self, message: ExecInContainer, secret_env: dict[str, str]) -> ExecReply:
        supervisor = self.supervisors.get(message.container_id)
        reason = (
            "the container is not here"
            if supervisor is None
            else supervisor.exec(message, secret_env)
        )
        return ExecReply(accepted=not reason, reason=reason)

    async def on_commit(self, delivery: Delivery[CommitLayer]) -> None:
        """Store a build's layer as an image."""
        if delivery.message is not None and delivery.answer is not None:
            self.workshop.spawn(self._commit(delivery.message, delivery.answer), "commit layer")

    async def _commit(self, message: CommitLayer, answer: Callable[[Any], Any]) -> None:
        supervisor = self.supervisors.get(message.container_id)
        if supervisor is None or supervisor.binding.spec.kind is not ContainerKind.BUILD:
            await answer(_not_committed("image.build_failed", "no such build container here"))
            return
        spec = supervisor.binding.spec
        try:
            committed = await self.workshop.images.commit(
                supervisor.directory / "layer",
                message.parent,
                spec.base_python,
                spec.env,
                ChangedRoot(supervisor.directory / CHANGES, spec.image_digest)
                if spec.writes_root
                else None,
                self._teller(message),
            )
        except PlatformError as error:
            committed = _not_committed(error.code, error.message)
        await answer(committed)

    def _teller(self, message: CommitLayer) -> Pushed:
        """Return what tells whoever asked for a layer how far it is."""
        number = itertools.count(1)

        async def told(done: int, total: int) -> None:
            if message.reply_to and total:
                event = ExecEvent(
                    exec_id=message.exec_id,
                    number=next(number),
                    kind="bytes",
                    bytes_done=done,
                    bytes_total=total,
                )
                to = EXEC_REPLY.at(instance=message.reply_to, exec_id=message.exec_id)
                with contextlib.suppress(PlatformError):  # the layer matters, not who looks on
                    await self.workshop.bus.send(to, event)

        return told

    # -- loops ----------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Let every container look at the clock."""
        now = self.workshop.clock.now()
        for supervisor in list(self.supervisors.values()):
            supervisor.tick(now)
        self.duty.tick(list(self.supervisors.values()), now)
        templates = self.workshop.templates
        if templates is not None:
            if self.duty.cordoned and not self.supervisors:
                templates.empty()
            templates.tick()

    async def send_beat(self) -> None:
        """Tell the whole truth about this worker."""
        self._beat += 1
        self._beaten_at = self.workshop.clock.now()
        workshop = self.workshop
        held = [each.binding.spec.resources for each in self.supervisors.values()]
        offer = self._renew_offer(
            sum(each.cpu_millis for each in held), sum(each.memory_bytes for each in held)
        )
        kept = workshop.templates.memory_bytes if workshop.templates is not None else 0
        self.offer = msgspec.structs.replace(offer, memory_bytes=max(0, offer.memory_bytes - kept))
        templates = workshop.templates
        beat = WorkerBeat(
            templates=templates.deployments() if templates is not None else (),
            plain_starts=templates.unsafe() if templates is not None else {},
            kept=templates.views() if templates is not None else (),
            worker_id=workshop.worker_id,
            beat=self._beat,
            started_at=self._started_at,
            host=self.offer.host,
            image_host=this_host(),
            cpu_millis=self.offer.cpu_millis,
            memory_bytes=self.offer.memory_bytes,
            gpus=self.offer.gpus,
            containers=self._views(),
            gpu_states=workshop.gpus.states(),
            driver=workshop.gpus.driver,
            images=tuple(workshop.images.digests()),
            trees=tuple(workshop.trees())[-TREES_TOLD_MAX:],
            pythons=tuple(workshop.pythons.versions()),
            draining=self.draining or self.duty.cordoned,
            cordoned=self.duty.cordoned,
            backend=workshop.backend.name,
            pool=self._pool,
        )
        await workshop.bus.send(WORKER_BEAT.at(worker_id=workshop.worker_id), beat)

    def _views(self) -> tuple[ContainerView, ...]:
        pids = {
            each.container_id: each.running.pid
            for each in self.supervisors.values()
            if each.running is not None and each.binding.gpu_ids
        }
        used = self.workshop.gpus.used(pids, parent_of) if pids else {}
        views = []
        for each in self.supervisors.values():
            size, busy = used.get(each.container_id, (0, 0.0))
            view = each.view()
            if size or busy:
                view = msgspec.structs.replace(view, gpu_bytes=size, gpu_busy=busy)
            views.append(view)
        return tuple(views)

    async def watch_gpus(self) -> None:
        """Look at the GPUs; one that breaks takes its containers with it."""
        if self.workshop.gpus.found:
            self.workshop.gpus.take(await asyncio.to_thread(self.workshop.gpus.look))

    def _on_gpu_broken(self, gpu_id: str, why: str) -> None:
        for supervisor in list(self.supervisors.values()):
            if gpu_id in supervisor.binding.gpu_ids:
                supervisor.gpu_lost(gpu_id, why)
        self.beat_soon()

    def _on_images_lost(self, holders: Sequence[str]) -> None:
        for holder in holders:
            supervisor = self.supervisors.get(ContainerId(holder))
            if supervisor is not None:
                supervisor.image_lost()
        self.beat_soon()

    def on_change(self, changed: Room) -> None:
        """A container reached another state."""
        self.workshop.answers.changed((changed,))
        self.beat_soon()

    def beat_soon(self) -> None:
        """Send a beat in a moment, one for all that changes until then."""
        if not self._beat_due:
            self._beat_due = True
            loop = asyncio.get_running_loop()
            since_s = self.workshop.clock.now() - self._beaten_at
            loop.call_later(beat_in_s(len(self.supervisors), since_s), self._beat_now)

    def _beat_now(self) -> None:
        self._beat_due = False
        if not self._gone:
            self.workshop.spawn(self.send_beat(), "beat")

    async def send_facts(self) -> None:
        """Send the waiting lines of history."""
        facts, workshop = self.workshop.facts, self.workshop
        while facts:
            batch = tuple(facts[each] for each in range(min(len(facts), FACTS_BATCH)))
            await workshop.bus.append(
                FACTS.at(worker_id=workshop.worker_id), InvocationFacts(facts=batch)
            )
            for _ in batch:
                facts.popleft()

    async def watch_memory(self) -> None:
        """Where the backend can't hold a container to its memory: measure it, and kill beyond it."""
        if "memory" in self.workshop.backend.enforces:
            return
        for supervisor in list(self.supervisors.values()):
            limit = supervisor.binding.spec.resources.memory_limit_bytes
            if limit > 0 and supervisor.running is not None:
                used = await asyncio.to_thread(tree_pss_bytes, supervisor.running.pid)
                supervisor.peak_bytes = max(supervisor.peak_bytes, used)
                if used > limit:
                    supervisor.overgrown(limit, supervisor.peak_bytes)

    # -- fences ---------------------------------------------------------------------------------

    def _refuse_binding(self, message: BindContainer) -> str:
        if message.generation < self._placement_generation:
            return "stale"
        self._placement_generation = message.generation
        if message.container_id in self.supervisors:
            return ""  # said again: the first answer was lost
        if message.container_id in self._ended:
            return "stale"  # it lived and ended; a container never starts twice
        if self.draining or self.duty.cordoned:
            return "draining"
        live = [each.binding for each in self.supervisors.values()]
        if len(live) >= CONTAINERS_MAX:
            return "full"
        return refuse_for_capacity(self.offer, live, message)

    async def _refuse(
        self, message: RunInvocation, invocation_id: InvocationId, reason: str
    ) -> None:
        log.info("run.refused", invocation_id=invocation_id, reason=reason)
        await self.workshop.bus.send(
            REFUSED.at(shard=message.shard),
            AttemptRefused(
                container_id=message.container_id,
                invocation_id=invocation_id,
                reason=reason,
                request=message.request,
            ),
        )

    async def _adopt(
        self, message: RunInvocation, invocation_id: InvocationId, flight: Any
    ) -> None:
        """What was handed out again runs here already: one run, and the new slot is free again."""
        if isinstance(flight, InteractiveFlight) and message.request is not None:
            flight.adopt(message.request)
        if message.container_id != flight.supervisor.container_id:
            await self.workshop.bus.send(
                ENDED.at(shard=message.shard),
                AttemptEnded(
                    container_id=message.container_id, invocation_ids=(invocation_id,), inputs=0
                ),
            )
            self.beat_soon()

    def _find_flight(self, invocation_id: InvocationId) -> Any:
        for supervisor in self.supervisors.values():
            flight = supervisor.flights.get(invocation_id)
            if flight is not None:
                return flight
        return None

    def _forget(self, supervisor: Supervisor) -> None:
        self.supervisors.pop(supervisor.container_id, None)
        self._ended[supervisor.container_id] = None
        if len(self._ended) > ENDED_KEPT_MAX:
            self._ended.pop(next(iter(self._ended)))
        self._one_ended.set()

    def _warn_about_limits(self, message: BindContainer) -> None:
        backend = self.workshop.backend
        new = (
            set(unheld(limits_of(message.spec, io=self.workshop.io), backend.enforces))
            - self._warned
        )
        if not new or self.workshop.refuses_unenforced:
            return
        self._warned |= new
        why = f"the {backend.name} backend can't hold containers to limits of {', '.join(sorted(new))} here"
        if "memory" in new:
            why += f"; memory is polled every {MEMORY_POLL_S} s and the container killed beyond its limit"
        log.warning("limits.not_enforced", backend=backend.name, why=why)


def beat_in_s(containers: int, since_s: float) -> float:
    """Return how long the next beat waits for further changes, after one `since_s` ago."""
    return min(BEAT_S, max(BEAT_SOON_S, containers * BEAT_APART_EACH_S - since_s))


def _invocation_of(message: RunInvocation) -> InvocationId:
    if message.request is not None:
        return message.request.invocation_id
    return message.record or InvocationId("")


def _not_committed(code: str, why: str) -> LayerCommitted:
    return LayerCommitted(error=RemoteError(code=code, type="ImageBuildError", message=why))
