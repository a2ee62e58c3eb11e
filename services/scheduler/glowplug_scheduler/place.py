"""Placement: binds every wanted container to a worker, and stops those nobody wants.

Journey step 5. A pure machine: `step(event, now)` changes the state and returns what to do; the shell
in `service.py` does it. It compares what should be (targets, containers wanted by name) with what is
(beats, container events) and what was asked for (binds), one deployment at a time, whenever something
about it changed. Before its lease is taken, and for a moment after it began to listen, it only
watches: a container it has not seen yet must not be bound a second time.

It never oversells a worker's offer, never binds a GPU twice, and never stops a container in another
order than: not ready first, then idle longest, then least in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from glowplug_contracts.ids import ContainerId, DeploymentId
from glowplug_contracts.messages.container import (
    BindContainer,
    ContainerKind,
    ContainerSpec,
    ContainerState,
    PlacementDecided,
    StopContainer,
)
from glowplug_contracts.messages.deployment import DeploymentState

from glowplug_scheduler.events import (
    AskWorker,
    BeatHeard,
    BrokerReached,
    ContainerMoved,
    Tick,
    WorkerAnswered,
    WorkerUnreachable,
)
from glowplug_scheduler.filters import Fit, fit
from glowplug_scheduler.place_observe import hear_beat, hear_container, load, lose_worker
from glowplug_scheduler.place_state import NO_DEPLOYMENT, Held, Parked, PlaceState
from glowplug_scheduler.place_types import (
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
    Publish,
    Stop,
    TargetDecided,
    WantedSeen,
)
from glowplug_scheduler.scoring import best

__all__ = [
    "SETTLED_AFTER_S",
    "AskWorker",
    "BeatHeard",
    "Bind",
    "BindAnswered",
    "BrokerReached",
    "Bury",
    "ContainerMoved",
    "Decision",
    "DeploymentSeen",
    "Event",
    "Forget",
    "LeaseLost",
    "LeaseTaken",
    "LoadsSeen",
    "Placement",
    "Publish",
    "Stop",
    "TargetDecided",
    "Tick",
    "WantedSeen",
    "WorkerAnswered",
    "WorkerUnreachable",
]

# By then every live worker has beaten once since we began to listen.
SETTLED_AFTER_S = 1.2
STOP_AGAIN_S = 2.0
PARKED_AGAIN_S = 1.0
DELETED_GRACE_S = 30.0
ENDLESS_GRACE_S = 86_400.0
GRACE_MARGIN_S = 5.0
# How long a worker is not asked again after it refused, by its reason.
REFUSED_S = {"full": 2.0, "image": 30.0, "stale": 1.0}
REFUSED_OTHER_S = 5.0
NOWHERE = "*"


class Placement:
    """The machine; one leads, others may listen."""

    def __init__(self) -> None:
        self.state = PlaceState()
        state = self.state
        # Any: each handler takes its own event type; `step` looks it up by that type.
        self._handlers: dict[type, Callable[[Any, float, list[Decision]], None]] = {
            BeatHeard: lambda event, now, out: hear_beat(state, event, now, out),
            ContainerMoved: lambda event, now, _: hear_container(state, event, now),
            TargetDecided: self._target,
            DeploymentSeen: self._deployment,
            WantedSeen: self._want,
            BindAnswered: self._answer,
            LoadsSeen: self._loads,
            LeaseTaken: self._take,
            LeaseLost: self._lose_lease,
            BrokerReached: self._reach,
            WorkerAnswered: self._alive,
            WorkerUnreachable: self._unreachable,
            Tick: self._tick,
        }

    def step(self, event: Event, now: float) -> Sequence[Decision]:
        """Take in what happened at `now`; return what to do, in order."""
        state = self.state
        if state.listening_since is None:
            state.listening_since = now
        out: list[Decision] = []
        self._handlers[type(event)](event, now, out)
        if not state.generation:
            return ()  # a follower's decisions are the leader's to make
        if state.settled and state.dirty:
            self._reconcile(now, out)
        return out

    def check(self) -> None:
        """Raise AssertionError if an invariant of `place_state.py` does not hold."""
        self.state.check()

    # -- Wishes ---------------------------------------------------------------------------------

    def _target(self, event: TargetDecided, now: float, _: list[Decision]) -> None:
        decided = event.decided
        state = self.state
        known = state.targets.get(decided.deployment_id)
        if known is not None and decided.generation < known.generation:
            return
        state.targets[decided.deployment_id] = decided
        state.dirty[decided.deployment_id] = None
        backoff = state.backoffs.get(decided.deployment_id)
        if backoff is not None and decided.target > (known.target if known else 0):
            backoff.until = now  # somebody called again: that earns one try

    def _deployment(self, event: DeploymentSeen, _: float, __: list[Decision]) -> None:
        state = self.state
        gone = event.deployment is None
        if event.deployment is None:
            state.deployments.pop(event.deployment_id, None)
        else:
            state.deployments[event.deployment_id] = event.deployment
            gone = event.deployment.state is DeploymentState.DELETED
        if gone:
            state.targets.pop(event.deployment_id, None)
            state.backoffs.pop(event.deployment_id, None)
            state.crashes.pop(event.deployment_id, None)
        state.dirty[event.deployment_id] = None

    def _want(self, event: WantedSeen, _: float, __: list[Decision]) -> None:
        state = self.state
        if event.wanted is None:
            state.wanted.pop(event.container_id, None)
            state.finished.discard(event.container_id)
        else:
            state.wanted[event.container_id] = event.wanted
            if event.container_id in state.ended or event.container_id in state.mourned:
                state.finished.add(event.container_id)
        state.dirty[event.container_id] = None

    # -- What became of it ----------------------------------------------------------------------

    def _answer(self, event: BindAnswered, now: float, out: list[Decision]) -> None:
        state = self.state
        held = state.held.get(event.container_id)
        if held is None or held.worker_id != event.worker_id:
            return
        if event.result == "refused":
            key = _key(held)
            pause = REFUSED_S.get(event.reason, REFUSED_OTHER_S)
            state.refusals[key, event.worker_id] = (now + pause, event.reason)
            if held.asked:
                state.release(held)
            return
        held.asked = False
        held.since = max(held.since, now)
        state.touch_held(held)
        if event.result == "accepted":
            out.append(
                Publish(
                    PlacementDecided(
                        container_id=held.container_id,
                        deployment_id=held.deployment_id,
                        decision="placed",
                        worker_id=held.worker_id,
                        gpu_ids=held.gpu_ids,
                    )
                )
            )

    def _loads(self, event: LoadsSeen, now: float, _: list[Decision]) -> None:
        for container_id, in_flight in event.in_flight.items():
            held = self.state.held.get(container_id)
            if held is not None:
                load(held, in_flight, now)

    # -- Lease, workers, time -------------------------------------------------------------------

    def _take(self, event: LeaseTaken, now: float, _: list[Decision]) -> None:
        self.state.generation = event.generation
        self.state.salt = event.salt
        self._settle(now, at_once=event.first)

    def _lose_lease(self, _: LeaseLost, __: float, ___: list[Decision]) -> None:
        self.state.generation = 0
        self.state.settled = False

    def _settle(self, now: float, *, at_once: bool = False) -> None:
        state = self.state
        since = now if state.listening_since is None else state.listening_since
        heard = at_once or now - since >= SETTLED_AFTER_S
        if state.settled or not state.generation or not heard:
            return
        state.settled = True
        for keys in (state.deployments, state.wanted, state.by_deployment):
            state.dirty.update(dict.fromkeys(keys))
        for held in state.held.values():
            state.touch_held(held)

    def _reach(self, event: BrokerReached, now: float, _: list[Decision]) -> None:
        self.state.liveness.reached(now, connected=event.connected)

    def _alive(self, event: WorkerAnswered, now: float, _: list[Decision]) -> None:
        self.state.liveness.touched(event.worker_id, now)

    def _unreachable(self, event: WorkerUnreachable, now: float, out: list[Decision]) -> None:
        if self.state.liveness.unreachable(event.worker_id, now):
            lose_worker(self.state, event.worker_id, now, out)

    def _tick(self, _: Tick, now: float, out: list[Decision]) -> None:
        state = self.state
        self._settle(now)
        verdict = state.liveness.passed(now)
        out.extend(AskWorker(worker_id) for worker_id in verdict.ask)
        for worker_id in verdict.dead:
            lose_worker(state, worker_id, now, out)
        state.refusals = {k: v for k, v in state.refusals.items() if v[0] > now}
        state.dirty.update(dict.fromkeys(state.parked))
        state.dirty.update(dict.fromkeys(d for d, b in state.backoffs.items() if b.until <= now))
        for deployment_id, crash in state.crashes.items():
            if 0 < crash.until <= now:
                crash.until = 0.0
                state.dirty[deployment_id] = None
        if state.settled:
            for held in list(state.held.values()):
                if held.stopping and now - held.stop_sent_at >= STOP_AGAIN_S:
                    self._send_stop(held, now, out)

    # -- Making it so ---------------------------------------------------------------------------

    def _reconcile(self, now: float, out: list[Decision]) -> None:
        """Bring everything that changed closer to what it should be. Named containers come first."""
        state = self.state
        dirty, state.dirty = state.dirty, {}
        for key in sorted(dirty, key=lambda key: (key not in state.wanted, key)):
            if key in state.wanted or ContainerId(key) in state.held:
                self._one_wanted(ContainerId(key), now, out)
            else:
                self._one_deployment(DeploymentId(key), now, out)

    def _one_wanted(self, container_id: ContainerId, now: float, out: list[Decision]) -> None:
        state = self.state
        held = state.held.get(container_id)
        wanted = state.wanted.get(container_id)
        if held is not None:
            unwanted = wanted is None or container_id in state.mourned
            if unwanted and not held.asked:
                self._stop(held, "deleted", 0.0, now, out)
            self._unpark(container_id)
        elif wanted is None or container_id in state.finished:
            self._unpark(container_id)
        else:
            self._bind(container_id, container_id, wanted.spec, wanted.trace, now, out)

    def _one_deployment(self, deployment_id: DeploymentId, now: float, out: list[Decision]) -> None:
        state = self.state
        everything = state.by_deployment.get(deployment_id, {}).values()
        members = [h for h in everything if h.kind is ContainerKind.FUNCTION]
        for held in members:
            if held.container_id in state.mourned:
                self._stop(held, "deleted", 0.0, now, out)
        live = [h for h in members if _counts(h)]
        target = state.target(deployment_id)
        if target is None or len(live) == target:
            self._unpark(deployment_id)
        elif len(live) > target:
            self._unpark(deployment_id)
            self._scale_in(deployment_id, live, target, now, out)
        else:
            self._scale_out(deployment_id, target - len(live), now, out)

    def _scale_out(
        self, deployment_id: DeploymentId, missing: int, now: float, out: list[Decision]
    ) -> None:
        state = self.state
        crash = state.crashes.get(deployment_id)
        if crash is not None and crash.until > now:
            return
        backoff = state.backoffs.get(deployment_id)
        if backoff is not None:
            if backoff.until > now:
                self._unpark(deployment_id)
                return
            members = state.by_deployment.get(deployment_id, {}).values()
            if any(_counts(h) and h.state is not ContainerState.READY for h in members):
                return  # after a failed start, one try at a time until one is ready
            missing = 1
        deployment = state.deployments[deployment_id]
        spec = state.spec(deployment)
        trace = state.targets[deployment_id].trace
        for _ in range(missing):
            parked = state.parked.get(deployment_id)
            container_id = parked.container_id if parked else state.make_id()
            if not self._bind(deployment_id, container_id, spec, trace, now, out):
                return

    def _bind(
        self,
        key: str,
        container_id: ContainerId,
        spec: ContainerSpec,
        trace: str,
        now: float,
        out: list[Decision],
    ) -> bool:
        """Ask the best worker to start a container, or park it; tell which."""
        state = self.state
        deployment_id = spec.deployment_id or NO_DEPLOYMENT
        fits: list[Fit] = []
        reasons: dict[str, str] = {}
        for worker_id in sorted(state.beats):
            judged = fit(spec, state.room(state.beats[worker_id], deployment_id, key, now))
            if isinstance(judged, Fit):
                fits.append(judged)
            else:
                reasons[worker_id] = judged.reason
        since = state.missing_since.setdefault(key, now)
        if not fits:
            self._park(key, container_id, deployment_id, reasons, now, out)
            return False
        chosen = best(spec, fits)
        worker_id = chosen.room.beat.worker_id
        state.hold(
            Held(
                container_id=container_id,
                deployment_id=deployment_id,
                worker_id=worker_id,
                kind=spec.kind,
                workspace=spec.workspace,
                resources=spec.resources,
                gpu_ids=chosen.gpu_ids,
                asked=True,
                own=True,
                idle_since=now,
                since=now,
                trace=trace,
            )
        )
        bind = BindContainer(
            container_id=container_id,
            generation=state.generation,
            spec=spec,
            gpu_ids=chosen.gpu_ids,
            trace=trace,
        )
        self._unpark(key)
        out.append(Bind(worker_id, bind, now - since))
        return True

    def _park(
        self,
        key: str,
        container_id: ContainerId,
        deployment_id: DeploymentId,
        reasons: dict[str, str],
        now: float,
        out: list[Decision],
    ) -> None:
        state = self.state
        reasons = reasons or {NOWHERE: "no live worker"}
        parked = state.parked.get(key)
        if parked is None:
            parked = state.parked[key] = Parked(container_id=container_id, since=now)
        if parked.reasons == reasons or now - parked.published_at < PARKED_AGAIN_S:
            return
        parked.reasons = reasons
        parked.published_at = now
        out.append(
            Publish(
                PlacementDecided(
                    container_id=container_id,
                    deployment_id=deployment_id,
                    decision="parked",
                    reasons=reasons,
                )
            )
        )

    def _unpark(self, key: str) -> None:
        self.state.parked.pop(key, None)
        self.state.missing_since.pop(key, None)

    def _scale_in(
        self,
        deployment_id: DeploymentId,
        live: list[Held],
        target: int,
        now: float,
        out: list[Decision],
    ) -> None:
        deployment = self.state.deployments.get(deployment_id)
        if deployment is None or deployment.state is DeploymentState.DELETED:
            reason, grace_s = "deleted", DELETED_GRACE_S
        else:
            timeout_s = deployment.spec.timeout_s
            reason = "scaled_in" if target else "idle"
            grace_s = timeout_s + GRACE_MARGIN_S if timeout_s > 0 else ENDLESS_GRACE_S
        # A bind that is not answered yet can't be stopped; its answer brings us here again.
        stoppable = sorted((h for h in live if not h.asked), key=_stop_order)
        for held in stoppable[: len(live) - target]:
            self._stop(held, reason, grace_s, now, out)

    def _stop(
        self, held: Held, reason: str, grace_s: float, now: float, out: list[Decision]
    ) -> None:
        if held.stopping and held.stop_grace_s <= grace_s:
            return
        held.stopping = True
        held.stop_reason = reason
        held.stop_grace_s = grace_s
        self._send_stop(held, now, out)

    def _send_stop(self, held: Held, now: float, out: list[Decision]) -> None:
        held.stop_sent_at = now
        out.append(
            Stop(
                held.worker_id,
                StopContainer(
                    container_id=held.container_id,
                    generation=self.state.generation,
                    grace_s=held.stop_grace_s,
                    reason=held.stop_reason,
                ),
            )
        )


def _key(held: Held) -> str:
    return held.deployment_id if held.kind is ContainerKind.FUNCTION else held.container_id


def _counts(held: Held) -> bool:
    return not held.stopping and held.state is not ContainerState.DRAINING


def _stop_order(held: Held) -> tuple[bool, bool, float, int, ContainerId]:
    """Not ready first, then idle longest, then least in flight."""
    busy = held.in_flight > 0
    idle_since = 0.0 if busy else held.idle_since
    ready = held.state is ContainerState.READY
    return (ready, busy, idle_since, held.in_flight, held.container_id)
