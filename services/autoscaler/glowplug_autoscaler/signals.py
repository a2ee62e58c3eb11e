"""What the autoscaler has heard, in the form that deciding needs: needs over time, and live containers.

Pure and bounded: a Peak holds at most one entry per distinct need, a Fleet what live workers report.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from typing import TypeVar

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId
from glowplug_contracts.messages.container import ContainerChanged, ContainerKind, ContainerState
from glowplug_contracts.messages.worker import WorkerBeat

K = TypeVar("K")

# A worker unheard for so long may be gone; its containers count no more. Beats come each second.
WORKER_SILENT_S = 3.5
# A container that lived so long after it was ready has shown that the deployment can run.
QUICK_DEATH_S = 10.0
# Ended containers remembered, so that a repeated event or a late beat does not bring one back.
ENDED_KEPT = 4096

LIVE = frozenset(
    {
        ContainerState.BOUND,
        ContainerState.PULLING,
        ContainerState.STARTING,
        ContainerState.READY,
    }
)
ENDS = frozenset({ContainerState.STOPPED, ContainerState.FAILED})


class End(Enum):
    """What the end of a container says about its deployment."""

    NONE = "none"  # no end, an orderly one, or one heard before
    START_FAILED = "start_failed"
    DIED_QUICKLY = "died_quickly"
    LIVED = "lived"  # it ended, however, after a life of QUICK_DEATH_S or more


class Peak:
    """The highest need within a sliding window that ends now.

    A need counts from when it is observed until `window_s` after it was replaced. Kept as a deque of
    (need, until) with falling needs and rising times: its first unexpired entry is the highest.
    """

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.current = 0
        self._past: deque[tuple[int, float]] = deque()
        self._ever = 0

    def observe(self, need: int, now: float) -> None:
        """Take `need` as the current one from now on."""
        if need < self.current:
            self._retire(self.current, now)
        self.current = need
        self._ever = max(self._ever, need)
        while self._past and not self._counts(self._past[0][1], now):
            self._past.popleft()

    def highest(self, now: float) -> int:
        """Return the highest need of the window; of all time where the window is endless."""
        if self.window_s < 0:
            return max(self._ever, self.current)
        for need, until in self._past:
            if self._counts(until, now):
                return max(need, self.current)
        return self.current

    def restart(self, need: int, now: float) -> None:
        """Forget the past; pretend that `need` was there until now."""
        self._past.clear()
        self._past.append((need, now))
        self.current = 0
        self._ever = need

    def _retire(self, need: int, now: float) -> None:
        while self._past and self._past[-1][0] <= need:
            self._past.pop()
        self._past.append((need, now))

    def _counts(self, until: float, now: float) -> bool:
        return self.window_s < 0 or now < until + self.window_s


class Seen(msgspec.Struct, kw_only=True):
    """A live function container, by its worker's word.

    `ready_at` is when it was first heard to be ready; long ago if that was not heard itself.
    """

    deployment_id: DeploymentId
    worker_id: WorkerId
    state: ContainerState
    was_ready: bool = False
    ready_at: float = float("-inf")
    in_flight: int = 0


class Fleet:
    """Live function containers: beats carry the truth, events are quicker."""

    def __init__(self) -> None:
        self._containers: dict[ContainerId, Seen] = {}
        self._of: dict[DeploymentId, set[ContainerId]] = {}
        self._on: dict[WorkerId, set[ContainerId]] = {}
        self._heard: dict[WorkerId, float] = {}
        self._templates: dict[WorkerId, frozenset[DeploymentId]] = {}
        self._ended: OrderedDict[ContainerId, None] = OrderedDict()

    def live(self, deployment_id: DeploymentId) -> int:
        """Return how many containers run or are on their way."""
        return sum(self._containers[c].state in LIVE for c in self._of.get(deployment_id, ()))

    def ready(self, deployment_id: DeploymentId) -> int:
        """Return how many containers take work."""
        return sum(
            self._containers[c].state is ContainerState.READY
            for c in self._of.get(deployment_id, ())
        )

    def in_flight(self, deployment_id: DeploymentId) -> int:
        """Return how many invocations its workers last reported as running."""
        return sum(self._containers[c].in_flight for c in self._of.get(deployment_id, ()))

    def forked(self, deployment_id: DeploymentId) -> bool:
        """Return whether a live worker has a template of it."""
        return any(deployment_id in each for each in self._templates.values())

    def hear_beat(self, beat: WorkerBeat, now: float) -> set[DeploymentId]:
        """Take a worker's word for all it holds; return the deployments it may have changed."""
        self._heard[beat.worker_id] = now
        self._templates[beat.worker_id] = frozenset(() if beat.draining else beat.templates)
        listed = {view.container_id for view in beat.containers}
        gone = self._on.get(beat.worker_id, set()) - listed
        touched = {self._drop(container_id) for container_id in gone}
        for view in beat.containers:
            if view.kind is ContainerKind.FUNCTION and view.container_id not in self._ended:
                touched.add(view.deployment_id)
                self._put(view.container_id, view.deployment_id, beat.worker_id, view.state, now)
                self._containers[view.container_id].in_flight = len(view.in_flight)
        return touched

    def lasting(self, deployment_id: DeploymentId, since: float, now: float) -> bool:
        """Return whether a container that got ready after `since` has lived long by now."""
        return any(
            since < self._containers[c].ready_at <= now - QUICK_DEATH_S
            for c in self._of.get(deployment_id, ())
        )

    def hear_event(self, event: ContainerChanged, now: float) -> End:
        """Take one container's change; return what its end says (once for each)."""
        self._heard.setdefault(event.worker_id, now)
        if event.kind is not ContainerKind.FUNCTION or event.container_id in self._ended:
            return End.NONE
        seen = self._containers.get(event.container_id)
        if event.state not in ENDS:
            self._put(event.container_id, event.deployment_id, event.worker_id, event.state, now)
            return End.NONE
        if seen is not None:
            self._drop(event.container_id)
        self._ended[event.container_id] = None
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        return _end_of(event, seen, now)

    def forget_silent(self, now: float) -> set[DeploymentId]:
        """Drop what unheard workers held; return the deployments that this changed."""
        silent = {w for w, heard in self._heard.items() if now - heard > WORKER_SILENT_S}
        if not silent:
            return set()
        for worker_id in silent:
            del self._heard[worker_id]
            self._templates.pop(worker_id, None)
        lost = [c for worker_id in silent for c in self._on.get(worker_id, ())]
        return {self._drop(container_id) for container_id in lost}

    def _put(
        self,
        container_id: ContainerId,
        deployment_id: DeploymentId,
        worker_id: WorkerId,
        state: ContainerState,
        now: float,
    ) -> None:
        seen = self._containers.get(container_id)
        known = seen is not None
        if seen is None:
            seen = Seen(deployment_id=deployment_id, worker_id=worker_id, state=state)
            self._containers[container_id] = seen
            self._of.setdefault(deployment_id, set()).add(container_id)
            self._on.setdefault(worker_id, set()).add(container_id)
        if state is ContainerState.READY and not seen.was_ready:
            seen.was_ready = True
            seen.ready_at = now if known else float("-inf")
        seen.state = state

    def _drop(self, container_id: ContainerId) -> DeploymentId:
        seen = self._containers.pop(container_id)
        _remove(self._of, seen.deployment_id, container_id)
        _remove(self._on, seen.worker_id, container_id)
        return seen.deployment_id


def _remove(index: dict[K, set[ContainerId]], key: K, container_id: ContainerId) -> None:
    """Take a container out of an index, and the key with its last one."""
    index[key].discard(container_id)
    if not index[key]:
        del index[key]


def _end_of(event: ContainerChanged, seen: Seen | None, now: float) -> End:
    failed = event.state is ContainerState.FAILED
    if failed and _never_started(event, seen):
        return End.START_FAILED
    if seen is None or not seen.was_ready:
        return End.NONE
    if now - seen.ready_at >= QUICK_DEATH_S:
        return End.LIVED
    return End.DIED_QUICKLY if failed and event.reason == "crashed" else End.NONE


def _never_started(event: ContainerChanged, seen: Seen | None) -> bool:
    """Return whether a FAILED container never got ready through a fault of its own.

    Without an error it was lost with its worker, or ended by somebody's decision.
    """
    if event.reason == "start_failed":
        return True
    return seen is not None and not seen.was_ready and event.error is not None
