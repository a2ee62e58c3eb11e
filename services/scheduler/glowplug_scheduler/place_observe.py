"""How placement follows what is there: beats, container events, dead workers."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import (
    ContainerChanged,
    ContainerKind,
    ContainerState,
    StopContainer,
)
from glowplug_contracts.messages.worker import ContainerView, ForgetTemplates, WorkerBeat

from glowplug_scheduler.events import BeatHeard, ContainerMoved
from glowplug_scheduler.liveness import Heard
from glowplug_scheduler.place_state import NO_DEPLOYMENT, Backoff, Crash, Held, PlaceState
from glowplug_scheduler.place_types import Bury, Decision, Forget, Stop

MISSED_BEATS = 2
MISSED_AFTER_S = 0.8
BACKOFF_MAX_S = 60.0
# The autoscaler makes pauses when containers keep crashing. After a crash that soon follows another one its
# word is waited for, so that no container is started only to be stopped again.
CRASHES_APART_S = 90.0
HEED_S = 0.3
WORKER_LOST = "worker_lost"

_ORDER = {state: number for number, state in enumerate(ContainerState)}
_ENDS = frozenset({ContainerState.STOPPED, ContainerState.FAILED})


def hear_beat(state: PlaceState, event: BeatHeard, now: float, out: list[Decision]) -> None:
    """Take in a worker's whole truth."""
    beat = event.beat
    heard = state.liveness.heard(beat, now)
    if heard is Heard.STALE:
        return
    before = state.beats.get(beat.worker_id)
    state.beats[beat.worker_id] = beat
    listed: set[ContainerId] = set()
    for view in beat.containers:
        if view.container_id in state.ended:
            # An order that was long under way started it again. If it is only just ending, no harm is done.
            out.append(_dismissal(state, beat.worker_id, view.container_id))
        else:
            listed.add(view.container_id)
            _hear_view(state, beat.worker_id, view, now, out)
    for held in list(state.by_worker.get(beat.worker_id, {}).values()):
        if held.container_id not in listed:
            _miss(state, held, restarted=heard is Heard.RESTARTED, now=now, out=out)
    if before is None or _offers_differ(before, beat):
        state.dirty.update(dict.fromkeys(state.parked))
    _forget(state, beat, out)


def _forget(state: PlaceState, beat: WorkerBeat, out: list[Decision]) -> None:
    """Let the worker drop what it keeps of deployments that start no more containers there."""
    if not state.settled:
        return
    here = {held.deployment_id for held in state.by_worker.get(beat.worker_id, {}).values()}
    over = sorted(
        deployment_id
        for deployment_id in {*beat.templates, *beat.plain_starts} - here
        if state.over(deployment_id)
    )
    if over:
        out.append(Forget(beat.worker_id, ForgetTemplates(deployment_ids=tuple(over))))


def _offers_differ(a: object, b: object) -> bool:
    names = ("cpu_millis", "memory_bytes", "gpus", "pythons", "draining", "pool")
    return any(getattr(a, name) != getattr(b, name) for name in names)


def _hear_view(
    state: PlaceState,
    worker_id: WorkerId,
    view: ContainerView,
    now: float,
    out: list[Decision],
) -> None:
    held = state.held.get(view.container_id)
    if held is not None and held.worker_id != worker_id:
        # Bound again elsewhere after a bind without an answer, which was taken after all.
        out.append(_dismissal(state, worker_id, view.container_id))
        return
    if held is None:
        held = Held(
            container_id=view.container_id,
            deployment_id=view.deployment_id or NO_DEPLOYMENT,
            worker_id=worker_id,
            kind=view.kind,
            workspace=view.workspace,
            resources=view.resources,
            gpu_ids=view.gpu_ids,
            idle_since=now,
        )
        state.hold(held)
        state.touch_held(held)
    held.asked = False
    held.seen = True
    held.absent = 0
    held.since = now
    if held.gpu_ids != view.gpu_ids:
        # An earlier bind was taken after all, with what it said: not what was decided last.
        held.own = False
        held.gpu_ids = view.gpu_ids
    load(held, len(view.in_flight), now)
    advance(state, held, view.state)


def _dismissal(state: PlaceState, worker_id: WorkerId, container_id: ContainerId) -> Stop:
    """Return the order to end what nobody counts on."""
    order = StopContainer(
        container_id=container_id, generation=state.generation, grace_s=0.0, reason="deleted"
    )
    return Stop(worker_id, order)


def load(held: Held, in_flight: int, now: float) -> None:
    """Note how much runs in a container."""
    if in_flight == 0 and held.in_flight > 0:
        held.idle_since = now
    held.in_flight = in_flight


def advance(state: PlaceState, held: Held, reached: ContainerState) -> None:
    """Move a container on to a state that lies ahead."""
    if _ORDER[reached] <= _ORDER[held.state]:
        return
    held.state = reached
    if reached is ContainerState.READY:
        state.backoffs.pop(held.deployment_id, None)
    state.touch_held(held)


def _miss(
    state: PlaceState, held: Held, *, restarted: bool, now: float, out: list[Decision]
) -> None:
    """A worker did not list a container that we count on it."""
    if held.asked:
        return  # the bind may still be under way; its answer decides
    held.absent += 1
    if restarted or (held.absent >= MISSED_BEATS and now - held.since >= MISSED_AFTER_S):
        lose(state, held, now, out)


def hear_container(state: PlaceState, event: ContainerMoved, now: float) -> None:
    """Take in a container's new state."""
    change = event.change
    if change.container_id in state.mourned or change.container_id in state.ended:
        return
    held = state.held.get(change.container_id)
    if held is not None and held.worker_id != change.worker_id:
        return
    if change.state in _ENDS:
        _end(state, held, change, now)
    elif held is not None:
        state.liveness.touched(change.worker_id, now)
        advance(state, held, change.state)


def _end(state: PlaceState, held: Held | None, change: ContainerChanged, now: float) -> None:
    # What another placement only took for lost, before us or as a zombie beside us, may turn up again.
    said_by_worker = change.reason != WORKER_LOST
    (state.ended if said_by_worker else state.mourned).add(change.container_id, now)
    if change.container_id in state.wanted:
        state.finished.add(change.container_id)
    if change.kind is ContainerKind.FUNCTION and change.state is ContainerState.FAILED:
        started = held is not None and held.state in {ContainerState.READY, ContainerState.DRAINING}
        if change.reason == "start_failed" or (not started and change.error is not None):
            backoff = state.backoffs.setdefault(change.deployment_id, Backoff())
            backoff.failures += 1
            backoff.until = now + min(BACKOFF_MAX_S, 2.0**backoff.failures)
        elif change.reason == "crashed":
            last = state.crashes.get(change.deployment_id)
            again = last is not None and now - last.at < CRASHES_APART_S
            state.crashes[change.deployment_id] = Crash(now, now + HEED_S if again else 0.0)
    if held is not None:
        state.release(held)


def lose(state: PlaceState, held: Held, now: float, out: list[Decision]) -> None:
    """A container is gone and its worker did not say so; say it in its place."""
    if held.seen or held.state is not ContainerState.BOUND:
        state.mourned.add(held.container_id, now)
        if held.container_id in state.wanted:
            state.finished.add(held.container_id)
        out.append(
            Bury(
                ContainerChanged(
                    container_id=held.container_id,
                    deployment_id=held.deployment_id,
                    worker_id=held.worker_id,
                    workspace=WorkspaceId(held.workspace),
                    kind=held.kind,
                    state=ContainerState.FAILED,
                    reason=WORKER_LOST,
                    trace=held.trace,
                )
            )
        )
    state.release(held)


def lose_worker(state: PlaceState, worker_id: WorkerId, now: float, out: list[Decision]) -> None:
    """A worker is dead: its containers are gone, and wanted elsewhere."""
    state.beats.pop(worker_id, None)
    for held in list(state.by_worker.get(worker_id, {}).values()):
        lose(state, held, now, out)
