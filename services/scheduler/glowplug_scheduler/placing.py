"""The shell around placement: the bus becomes events, decisions become messages.

Journey step 5. Every replica listens all the time, so that the one that takes the lease knows already
what runs; only the holder of the lease decides.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog
from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import ContainerId, DeploymentId
from glowplug_contracts.messages.container import (
    BindContainer,
    ContainerChanged,
    ContainerWanted,
    PlacementDecided,
)
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.streams import DEPLOYMENTS, WANTED
from glowplug_contracts.subjects import CONTAINER, PLACEMENT, SCALE
from glowplug_runtime.bus import Bus, Delivery, Entry
from glowplug_runtime.clock import Clock
from glowplug_runtime.lease import Lease
from glowplug_runtime.tracing import record_span

from glowplug_scheduler.hearing import Heard, Hearing, Spawn
from glowplug_scheduler.place import (
    AskWorker,
    Bind,
    BindAnswered,
    Bury,
    Decision,
    DeploymentSeen,
    Event,
    Forget,
    LeaseLost,
    LeaseTaken,
    LoadsSeen,
    Placement,
    Publish,
    Stop,
    TargetDecided,
    Tick,
    WantedSeen,
)
from glowplug_scheduler.ports import Workers

log = structlog.get_logger()

SALT_BYTES = 16


class PlacementShell:
    """One process's placement: always listening, leading while it holds the lease."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        hearing: Hearing,
        workers: Workers,
        loads: Callable[[], Mapping[ContainerId, int]],
        spawn: Spawn,
        *,
        remembers: bool = False,
    ) -> None:
        """`remembers`: generations outlive the broker, so that the first one is the very first."""
        self.machine = Placement()
        self._remembers = remembers
        self._bus = bus
        self._clock = clock
        self._hearing = hearing
        self._workers = workers
        self._loads = loads
        self._spawn = spawn
        self._broken: Exception | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen until the context is left; what is stored is known when it is entered."""
        async with AsyncExitStack() as stack:
            self._hearing.add(self)
            stack.callback(self._hearing.remove, self)
            for subscription in (
                await self._bus.bucket(DEPLOYMENTS).watch(self.on_deployment),
                await self._bus.bucket(WANTED).watch(self.on_container_wanted),
            ):
                stack.push_async_callback(subscription.close)
            following = await self._bus.follow(
                SCALE.pattern(), self.on_scale_decided, start="last_per_subject"
            )
            stack.push_async_callback(following.close)
            await following.caught_up()
            yield

    @asynccontextmanager
    async def lead(self, lease: Lease) -> AsyncIterator[None]:
        """Decide until the context is left."""
        first = self._remembers and lease.generation == 1
        self._step(LeaseTaken(lease.generation, os.urandom(SALT_BYTES), first))
        try:
            yield
        finally:
            self._step(LeaseLost())

    # -- Hearing --------------------------------------------------------------------------------

    async def hear(self, event: Heard) -> None:
        """Workers and containers, from the process's ears."""
        self._step(event)

    async def on_deployment(self, entry: Entry[Deployment]) -> None:
        """A deployment was written or removed; its key ends with its id."""
        self._step(DeploymentSeen(DeploymentId(entry.key.rpartition(".")[2]), entry.value))

    async def on_container_wanted(self, entry: Entry[ContainerWanted]) -> None:
        """Somebody wants a container by name, or does not any more."""
        self._step(WantedSeen(ContainerId(entry.key), entry.value))

    async def on_scale_decided(self, delivery: Delivery[ScaleDecided]) -> None:
        """The autoscaler changed a target."""
        decided = delivery.message
        if decided is None:
            return
        if decided.target < decided.previous:  # which containers are idle right now?
            self._step(LoadsSeen(dict(self._loads())))
        self._step(TargetDecided(decided))

    async def tick(self) -> None:
        """Time passed."""
        if self._broken is not None:
            raise self._broken
        self._step(Tick())

    async def read_wishes(self) -> None:
        """Read the buckets as a whole; repairs what a watch missed."""
        state = self.machine.state
        wanted, deployments = self._bus.bucket(WANTED), self._bus.bucket(DEPLOYMENTS)
        wishes = {entry.key: entry.value for entry in await wanted.entries()}
        for key in _differing(wishes, {str(w): wish for w, wish in state.wanted.items()}):
            # Asked once more: what differs may have changed while the bucket was read.
            wish = await wanted.get(key)
            self._step(WantedSeen(ContainerId(key), wish.value if wish else None))
        stored = {entry.key: entry.value for entry in await deployments.entries()}
        known = {f"{d.workspace}.{d.deployment_id}": d for d in state.deployments.values()}
        for key in _differing(stored, known):
            found = await deployments.get(key)
            deployment = found.value if found else None
            self._step(DeploymentSeen(DeploymentId(key.rpartition(".")[2]), deployment))

    # -- Doing ----------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        if self._broken is not None:
            return
        try:
            decisions = self.machine.step(event, self._clock.now())
        except Exception as error:
            # Our bug, and the state can't be trusted any more: the process ends and starts afresh.
            log.exception("placement.broken", placement_event=repr(event)[:500])
            self._broken = error
            return
        for decision in decisions:
            self._perform(decision)

    def _perform(self, decision: Decision) -> None:
        match decision:
            case Bind():
                self._spawn(self._bind(decision), "bind container")
            case Stop(worker_id, stop):
                log.info("container.stopping", container_id=stop.container_id, reason=stop.reason)
                self._spawn(self._workers.stop(worker_id, stop), "stop container")
            case Forget(worker_id, forget):
                log.info("templates.forgotten", worker_id=worker_id, ids=forget.deployment_ids)
                self._spawn(self._workers.forget(worker_id, forget), "forget templates")
            case Publish(decided):
                self._spawn(self._publish(decided), "publish placement")
            case Bury(change):
                log.warning(
                    "container.lost",
                    container_id=change.container_id,
                    worker_id=change.worker_id,
                )
                self._spawn(self._bury(change), "publish lost container")
            case AskWorker(worker_id):
                self._hearing.ask(worker_id)

    async def _bind(self, decision: Bind) -> None:
        worker_id = decision.worker_id
        unix = self._clock.unix()
        bind = msgspec.structs.replace(decision.bind, requested_at=unix)
        try:
            reply = await self._workers.bind(worker_id, bind)
        except UnavailableError as error:
            nobody = bool(error.details.get("nobody_listens"))
            log.warning("bind.unanswered", container_id=bind.container_id, error=str(error))
            result = "refused" if nobody else "unknown"
            reason = "unreachable" if nobody else ""
            answer = BindAnswered(bind.container_id, worker_id, result, reason)  # type: ignore[arg-type]
        except PlatformError as error:
            answer = BindAnswered(bind.container_id, worker_id, "refused", error.code)
        else:
            result = "accepted" if reply.accepted else "refused"
            answer = BindAnswered(bind.container_id, worker_id, result, reply.reason)  # type: ignore[arg-type]
        log.info(
            "container.bound" if answer.result == "accepted" else "bind.refused",
            container_id=bind.container_id,
            deployment_id=bind.spec.deployment_id,
            worker_id=worker_id,
            reason=answer.reason,
        )
        self._record_span(bind, decision, unix, answer)
        self._step(answer)

    def _record_span(
        self, bind: BindContainer, decision: Bind, unix: float, answer: BindAnswered
    ) -> None:
        if bind.trace:
            record_span(
                "place",
                bind.trace,
                unix - decision.waited_s,
                self._clock.unix(),
                "" if answer.result == "accepted" else f"{answer.result} {answer.reason}",
                container_id=bind.container_id,
                worker_id=decision.worker_id,
            )

    async def _publish(self, decided: PlacementDecided) -> None:
        log.info(
            "placement.decided",
            decision=decided.decision,
            container_id=decided.container_id,
            deployment_id=decided.deployment_id,
            reasons=decided.reasons,
        )
        stamped = msgspec.structs.replace(decided, at=self._clock.unix())
        await self._bus.append(PLACEMENT.at(container_id=decided.container_id), stamped)

    async def _bury(self, change: ContainerChanged) -> None:
        at = CONTAINER.at(deployment_id=change.deployment_id, container_id=change.container_id)
        await self._bus.append(at, msgspec.structs.replace(change, at=self._clock.unix()))


def _differing(stored: Mapping[str, object], known: Mapping[str, object]) -> list[str]:
    return sorted(k for k in {*stored, *known} if stored.get(k) != known.get(k))
