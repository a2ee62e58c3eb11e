"""What waits and what runs, per deployment: the dispatcher's data structures.

An invocation is one `Item` for as long as the dispatcher knows it; its `place` says where it is. The
queue of a deployment orders by priority (high first), then by arrival. Heaps delete lazily: an entry
counts only while its item still waits (or its container is still as free as it says), and a heap that
is mostly stale is rebuilt. Nothing here decides; `dispatch.py` does.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import Enum
from typing import Generic, TypeVar

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import InvocationRequested, RemoteError, State

from glowplug_scheduler.rates import Rate

K = TypeVar("K")

_STALE_ALLOWED = 64


class Place(Enum):
    """Where an item is; it is in one place at a time."""

    WAITING = "waiting"  # in its deployment's queue
    DELAYED = "delayed"  # not due yet
    HELD = "held"  # due, and others must end first (`keys.py`)
    FLYING = "flying"  # handed to a container
    ENDING = "ending"  # durable: its worker is done, its record's last word not yet seen
    WRITING = "writing"  # durable: we are changing its record
    GONE = "gone"  # forgotten; only stale heap entries still point here


class Item(msgspec.Struct, eq=False, kw_only=True):
    """One invocation the dispatcher knows.

    Attributes:
        sequence: of the call in the work stream (0: no stream holds it), or of the record.
        ticket: order of arrival here; kept when it comes back, so that it comes back to the front.
        request: the cached call, None when only the stream holds it (or for durable work).
        size: bytes the cached call counts for; 0 when not cached.
        reading: handed without its call, which is being read again: not acknowledged yet.
        own: handed by this machine, in this generation.
        missed: beats of its worker, since it was handed, that did not list it.
        since: when it came to its present place.
        order, key, key_limit, holds_key: see `keys.py`.
        late: others of its key went before it, or beside it, before it was heard of.
        after_count, after_if: see `followups.py`; a count of 0 waits for nothing (more).
        handed_attempt: the last attempt of a durable one that this machine had begun.
        refused: the sequence of its record when a worker last said that the record had moved on.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    queue: DeploymentQueue
    sequence: int
    ticket: int
    durable: bool = False
    attempt: int = 1
    priority: int = 0
    inputs: int = 1
    place: Place = Place.GONE
    request: InvocationRequested | None = None
    size: int = 0
    reply_to: str = ""
    trace: str = ""
    accepted_at: float = 0.0
    arrived: float = 0.0
    expires_at: float = 0.0
    lost_attempts: int = 0
    state: State = State.ACCEPTED
    container_id: ContainerId = ContainerId("")
    reading: bool = False
    own: bool = False
    missed: int = 0
    since: float = 0.0
    cause: str = ""
    error: RemoteError | None = None
    next_state: State = State.ACCEPTED
    order: int = 0
    late: bool = False
    key: str = ""
    key_limit: int = 0
    holds_key: bool = False
    handed_attempt: int = -1
    refused: int = 0
    after_count: int = 0
    after_if: str = "succeeded"
    due_at: float = 0.0


class Container(msgspec.Struct, eq=False, kw_only=True):
    """A function's container, as the dispatcher sees it.

    Attributes:
        occupied: invocations in its slots: ours, and those its worker listed.
        open: ready, not refusing, and its worker is heard: it may be given work.
        version: new with every change; a heap entry of an older version is stale.
        refusing: why it gave work back, or ""; closed until its worker's next word.
        absent: beats of its worker, in a row, that did not list it.
        ended: when invocations left it lately, so that a beat written before does not bring them back.
    """

    container_id: ContainerId
    worker_id: WorkerId
    queue: DeploymentQueue
    slots: int = 0
    state: ContainerState = ContainerState.BOUND
    occupied: set[InvocationId]
    open: bool = False
    version: int = 0
    refusing: str = ""
    absent: int = 0
    seen_at: float = 0.0
    ended: dict[InvocationId, float]


class DeploymentQueue:
    """One deployment: what waits for it, its containers, and the figures of its backlog."""

    def __init__(self, deployment_id: DeploymentId) -> None:
        self.deployment_id = deployment_id
        self.containers: dict[ContainerId, Container] = {}
        self.items = 0
        self.waiting = 0
        self.queued_inputs = 0
        self.flying = 0
        self.flying_inputs = 0
        self.arrivals = 0
        self.brief: dict[ContainerId, int] = {}  # ran and ended unnamed since the last announcement
        self.announced_at = float("-inf")
        self.active_at = float("-inf")
        self.dirty = False
        self.deleted = False
        self.rate = Rate()
        self.start_failures = 0  # containers in a row that ended before they were ready
        self._heap: list[tuple[int, int, int, Item]] = []
        self._ages: deque[Item] = deque()
        self._free: list[tuple[int, ContainerId, int, Container]] = []
        self._pushes = 0
        self._versions = 0

    # -- Waiting work ---------------------------------------------------------------------------

    def push(self, item: Item) -> None:
        """Let an item wait. One that comes back keeps its ticket and so its place at the front."""
        item.place = Place.WAITING
        self.waiting += 1
        self.queued_inputs += item.inputs
        self._pushes += 1
        heapq.heappush(self._heap, (-item.priority, item.ticket, self._pushes, item))
        if self._ages and self._ages[-1].ticket > item.ticket:
            self._ages.appendleft(item)
        else:
            self._ages.append(item)
        if len(self._heap) > 2 * self.waiting + _STALE_ALLOWED:
            self._heap = [entry for entry in self._heap if entry[3].place is Place.WAITING]
            heapq.heapify(self._heap)
        if len(self._ages) > 2 * self.waiting + _STALE_ALLOWED:
            self._ages = deque(i for i in self._ages if i.place is Place.WAITING)

    def remove(self, item: Item, place: Place) -> None:
        """Take a waiting item out, to `place`."""
        item.place = place
        self.waiting -= 1
        self.queued_inputs -= item.inputs

    def first(self) -> Item | None:
        """Return the item that is next, leaving it in the queue."""
        heap = self._heap
        while heap:
            item = heap[0][3]
            if item.place is Place.WAITING:
                return item
            heapq.heappop(heap)
        return None

    def oldest(self) -> Item | None:
        """Return the item that has waited longest, whatever its priority."""
        ages = self._ages
        while ages and ages[0].place is not Place.WAITING:
            ages.popleft()
        return ages[0] if ages else None

    def everyone(self) -> list[Item]:
        """Return all waiting items in order."""
        seen: dict[InvocationId, Item] = {}
        for entry in sorted(self._heap, key=lambda entry: entry[:3]):
            if entry[3].place is Place.WAITING:
                seen[entry[3].invocation_id] = entry[3]
        return list(seen.values())

    # -- Free slots -----------------------------------------------------------------------------

    def changed(self, container: Container) -> None:
        """Note that a container's load or openness changed."""
        self._renumber(container)
        load = len(container.occupied)
        if not container.open or load >= container.slots:
            return
        heapq.heappush(self._free, (load, container.container_id, container.version, container))
        if len(self._free) > 4 * len(self.containers) + _STALE_ALLOWED:
            self._free = [entry for entry in self._free if entry[3].version == entry[2]]
            heapq.heapify(self._free)

    def closed(self, container: Container) -> None:
        """Note that a container is gone: none of its entries counts any more."""
        container.open = False
        self._renumber(container)

    def _renumber(self, container: Container) -> None:
        # One count for all containers: one that comes back under its old id is no tie in the heap.
        self._versions += 1
        container.version = self._versions

    def freest(self) -> Container | None:
        """Return the open container with the fewest in flight and a free slot; ties by id."""
        free = self._free
        while free:
            _, _, version, container = free[0]
            if container.version == version:
                return container
            heapq.heappop(free)
        return None

    def has_ready(self) -> bool:
        """Return whether any container is ready (free or not)."""
        return any(c.state is ContainerState.READY for c in self.containers.values())


class Remembered(Generic[K]):
    """Keys with a time, of which at least the last `bound` and at most twice as many are kept."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._new: dict[K, float] = {}
        self._old: dict[K, float] = {}

    def add(self, key: K, now: float) -> None:
        """Remember a key."""
        self._new[key] = now
        if len(self._new) >= self._bound:
            self._old, self._new = self._new, {}

    def __contains__(self, key: K) -> bool:
        return key in self._new or key in self._old

    def within(self, key: K, now: float, seconds: float) -> bool:
        """Return whether the key was added within the last `seconds`."""
        at = self._new.get(key, self._old.get(key))
        return at is not None and now - at <= seconds
