"""What one shard's dispatcher knows, and the small steps every change is made of.

Each step keeps the invariants of `dispatch_checks.py`. The machine's events live in `dispatch.py`
(calls), `dispatch_records.py` (durable work) and `dispatch_containers.py` (containers and workers).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import TypeAlias

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.dispatch import BacklogChanged
from glowplug_contracts.messages.invocation import PLATFORM_RETRIES_MAX, RemoteError, State
from glowplug_contracts.streams import SHARD_BACKLOG_MAX

from glowplug_scheduler.auditing import Audit
from glowplug_scheduler.dispatch_types import (
    Ack,
    AnnounceBacklog,
    Decision,
    Hand,
    SendLost,
    WriteRecord,
)
from glowplug_scheduler.followups import Followups
from glowplug_scheduler.keys import Keys
from glowplug_scheduler.liveness import Liveness
from glowplug_scheduler.queues import Container, DeploymentQueue, Item, Place, Remembered

CACHE_BYTES_MAX = 64 * 1024 * 1024
ANNOUNCE_EVERY_S = 0.05
REWRITE_AFTER_S = 2.0
# By then every live worker has beaten twice since this generation began.
SETTLED_AFTER_S = 2.5
REMEMBERED = 16_384
DUES_STALE_ALLOWED = 4096

DELETED = RemoteError(
    code="deployment.not_found",
    type="NotFoundError",
    message="the deployment was deleted before this was run",
)

Due: TypeAlias = tuple[float, int, Item, Place, float]


class ShardState:
    """The state of one shard.

    Attributes:
        strangers: invocations that workers listed and nobody told us of, or whose newer attempt we
            know; they occupy a slot until their worker is done with them.
        orphans: records that run in containers not seen (yet).
        acked: calls handed or dropped, in case they are delivered again. With their ids, because a
            broker that restarts counts the memory stream's sequences from 1 again.
        deleted: deployments that were deleted; nothing waits in their queues.
        gone: durable invocations that ended or left their stream lately.
        records_read: what stood in the records' stream is known.
        leaving: strangers that were cancelled and may still run: their key, and where that is recorded.
        cancelled_keys: the same of what may yet turn out to be a stranger, until the keys are opened.
        throttled: queues whose rate lets nothing start for now.
        unfilled: queues that got work from another one's end; `settle` hands it.
        buried: containers that ended; a late beat does not bring them back.
        followers: those that wait for the ends of others.
        due: (when, number, item, place it must still be in, since when).
    """

    def __init__(
        self,
        shard: int,
        shards: int,
        *,
        backlog_max: int = SHARD_BACKLOG_MAX,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.shard = shard
        self.shards = shards
        self.backlog_max = backlog_max
        self.cache_bytes_max = cache_bytes_max
        self.generation = 0
        self.taken_at = float("inf")
        self.items: dict[InvocationId, Item] = {}
        self.queues: dict[DeploymentId, DeploymentQueue] = {}
        self.containers: dict[ContainerId, Container] = {}
        self.by_worker: dict[WorkerId, dict[ContainerId, Container]] = {}
        self.draining: set[WorkerId] = set()
        self.strangers: dict[InvocationId, ContainerId] = {}
        self.orphans: dict[ContainerId, dict[InvocationId, None]] = {}
        self.liveness = Liveness()
        self.acked: Remembered[tuple[int, InvocationId]] = Remembered(REMEMBERED)
        self.cancelled: Remembered[InvocationId] = Remembered(REMEMBERED)
        self.buried: Remembered[ContainerId] = Remembered(REMEMBERED)
        self.deleted: set[DeploymentId] = set()
        self.keys = Keys()
        self.records_read = False
        self.audit = Audit()
        self.gone: Remembered[InvocationId] = Remembered(REMEMBERED)
        self.followups = Followups()
        self.leaving: dict[InvocationId, tuple[str, int]] = {}
        self.cancelled_keys: dict[InvocationId, tuple[str, int]] = {}
        self.throttled: dict[DeploymentId, DeploymentQueue] = {}
        self.unfilled: dict[DeploymentId, DeploymentQueue] = {}
        self.due: list[Due] = []
        self.ending: deque[Item] = deque()
        self.dirty: dict[DeploymentId, DeploymentQueue] = {}
        self.records_high = 0
        self.cached_bytes = 0
        self.overflowed = False
        self.followers: set[InvocationId] = set()
        self.announced_all_at = 0.0
        self.announcements = 0
        self._tickets = 0
        self._dues = 0

    # -- Finding and making ---------------------------------------------------------------------

    def queue(self, deployment_id: DeploymentId) -> DeploymentQueue:
        """Return a deployment's queue, new if it was not known."""
        queue = self.queues.get(deployment_id)
        if queue is None:
            queue = self.queues[deployment_id] = DeploymentQueue(deployment_id)
            queue.deleted = deployment_id in self.deleted
        return queue

    def unstarted(self, queue: DeploymentQueue) -> list[Item]:
        """Return what waits for a container of this deployment, or for a key to do so."""
        held = [i for i in self.items.values() if i.place is Place.HELD and i.queue is queue]
        return queue.everyone() + held

    def settled(self, now: float) -> bool:
        """Return whether an id that is unknown here is surely not in any worker either."""
        return now - self.taken_at >= SETTLED_AFTER_S

    def ticket(self) -> int:
        """Return the next place in the order of arrival."""
        self._tickets += 1
        return self._tickets

    def add(self, item: Item) -> None:
        """Know an item from now on; it still needs a place."""
        self.items[item.invocation_id] = item
        item.queue.items += 1

    def is_full(self, share: float = 1.0) -> bool:
        """Return whether so large a share of the backlog is taken.

        Those that wait for others take no room: they would keep out what they wait for.
        """
        return len(self.items) - len(self.followers) >= share * self.backlog_max

    def remind(self, at: float, item: Item, place: Place) -> None:
        """Look at the item at `at`, if it is still in `place` since the time it is now."""
        self._dues += 1
        heapq.heappush(self.due, (at, self._dues, item, place, item.since))
        if len(self.due) > 2 * len(self.items) + DUES_STALE_ALLOWED:
            self.due = [entry for entry in self.due if _still_due(entry)]
            heapq.heapify(self.due)

    # -- Slots ----------------------------------------------------------------------------------

    def occupy(self, container: Container, invocation_id: InvocationId) -> None:
        """Take a slot."""
        container.occupied.add(invocation_id)
        container.queue.changed(container)

    def vacate(self, container: Container, invocation_id: InvocationId, now: float) -> None:
        """Free a slot. A beat written before this does not bring the invocation back."""
        container.occupied.discard(invocation_id)
        container.ended[invocation_id] = now
        container.queue.changed(container)

    def fly(self, item: Item, container_id: ContainerId, now: float) -> None:
        """Put an item into a container's slot, or among the orphans while that is not known."""
        item.place = Place.FLYING
        item.container_id = container_id
        item.missed = 0
        item.since = now
        item.queue.flying += 1
        item.queue.flying_inputs += item.inputs
        if self.strangers.get(item.invocation_id) == container_id:
            self.drop_stranger(item.invocation_id)
        container = self.containers.get(container_id)
        if container is None:
            self.orphans.setdefault(container_id, {})[item.invocation_id] = None
        else:
            self.occupy(container, item.invocation_id)

    def land(self, item: Item, place: Place, now: float) -> None:
        """Take a flying item out of its slot, to `place`."""
        container = self.containers.get(item.container_id)
        if container is not None:
            self.vacate(container, item.invocation_id, now)
        self._ground(item, place)

    def demote(self, item: Item) -> None:
        """Forget a flying item but let it keep its slot: it may run on as a stranger."""
        container = self.containers.get(item.container_id)
        self._ground(item, Place.GONE)
        if container is not None:
            self.add_stranger(container, item.invocation_id)
            if item.holds_key:
                self.leaving[item.invocation_id] = item.key, item.sequence
        self._forgotten(item)

    def _ground(self, item: Item, place: Place) -> None:
        orphans = self.orphans.get(item.container_id)
        if orphans is not None:
            orphans.pop(item.invocation_id, None)
            if not orphans:
                del self.orphans[item.container_id]
        item.queue.flying -= 1
        item.queue.flying_inputs -= item.inputs
        item.place = place
        item.own = False

    def add_stranger(self, container: Container, invocation_id: InvocationId) -> None:
        """Let an invocation that is not ours to know occupy a slot; it counts as one input."""
        if invocation_id in self.strangers:
            self.drop_stranger(invocation_id)
        self.strangers[invocation_id] = container.container_id
        container.queue.flying_inputs += 1
        self.occupy(container, invocation_id)
        cancelled = self.cancelled_keys.pop(invocation_id, None)
        if cancelled is not None:
            self.leave(invocation_id, *cancelled)

    def leave(self, invocation_id: InvocationId, key: str, sequence: int) -> None:
        """Let what was cancelled keep its key as long as its code may run, though it is not known here."""
        if invocation_id in self.strangers:
            self.leaving[invocation_id] = key, sequence
            self.keys.leave(key, invocation_id)
        elif self.keys.closed:
            self.cancelled_keys[invocation_id] = key, sequence

    def drop_stranger(self, invocation_id: InvocationId) -> None:
        """Free the slot of a stranger."""
        container = self.containers.get(self.strangers.pop(invocation_id))
        left = self.leaving.pop(invocation_id, None)
        if left is not None:
            self.admit(self.keys.left(left[0], invocation_id))
        if container is not None:
            container.queue.flying_inputs -= 1
            container.occupied.discard(invocation_id)
            container.queue.changed(container)

    # -- Leaving --------------------------------------------------------------------------------

    def uncache(self, item: Item) -> None:
        """Let go of the cached call."""
        item.request = None
        self.cached_bytes -= item.size
        item.size = 0

    def forget(self, item: Item, now: float) -> None:
        """Know an item no longer, wherever it is."""
        if item.place is Place.WAITING:
            item.queue.remove(item, Place.GONE)
        elif item.place is Place.FLYING:
            self.land(item, Place.GONE, now)
        self._forgotten(item)

    def _forgotten(self, item: Item) -> None:
        item.place = Place.GONE
        if item.request is not None:
            self.uncache(item)
        self.followers.discard(item.invocation_id)
        if self.items.get(item.invocation_id) is item:
            del self.items[item.invocation_id]
            item.queue.items -= 1
        if item.key:
            self.admit(self.keys.release(item, leaving=item.invocation_id in self.leaving))

    def ack(
        self, sequence: int, invocation_id: InvocationId, now: float, out: list[Decision]
    ) -> None:
        """Remove a call from its stream, where one holds it."""
        if sequence > 0:
            self.acked.add((sequence, invocation_id), now)
            out.append(Ack(sequence))

    # -- Handing --------------------------------------------------------------------------------

    def fill(self, queue: DeploymentQueue, now: float, out: list[Decision]) -> None:
        """Hand what waits to what is free, best first, until one of them runs out.

        What waits for a deleted deployment is ended instead.
        """
        while queue.deleted and (doomed := queue.first()) is not None:
            self.fail(doomed, DELETED, now, out)
        while queue.waiting:
            container = queue.freest()
            if container is None or self.throttle(queue, now):
                return
            item = queue.first()
            if item is None:
                raise AssertionError(f"{queue.deployment_id}: {queue.waiting} wait, none is found")
            queue.remove(item, Place.GONE)
            self.hand(item, container, now, out)

    def hand(self, item: Item, container: Container, now: float, out: list[Decision]) -> None:
        """Give an item (already out of the queue) a free slot."""
        if not container.open or len(container.occupied) >= container.slots:
            raise AssertionError(f"{container.container_id} has no free slot to hand to")
        item.own = True
        item.handed_attempt = item.attempt + 1
        item.queue.rate.note(now)
        self.fly(item, container.container_id, now)
        out.append(
            Hand(
                container.worker_id,
                container.container_id,
                item.queue.deployment_id,
                item.invocation_id,
                item.workspace,
                item.sequence,
                item.durable,
                item.request,
                item.attempt,
                item.trace,
                item.accepted_at,
                now - item.arrived,
            )
        )
        if item.durable:
            return
        if item.sequence > 0:
            self.acked.add((item.sequence, item.invocation_id), now)
        item.reading = item.request is None
        if item.request is not None:
            self.uncache(item)

    def wait(self, item: Item, now: float) -> None:
        """Let an item wait for a slot, or for its key first."""
        item.since = now
        if self.keys.crowds(item):
            self.admit(self.keys.release(item))
        if not item.key or item.holds_key or item.queue.deleted:
            item.queue.push(item)
            return
        item.place = Place.HELD
        self.admit(self.keys.ask(item))

    def admit(self, holders: Iterable[Item]) -> None:
        """Let what may hold its key now wait for a slot. `settle` hands it."""
        for item in holders:
            if item.place is Place.HELD:
                item.queue.push(item)
                self.unfilled[item.queue.deployment_id] = item.queue

    def settle(self, now: float, out: list[Decision]) -> None:
        """Hand what one item's end has let another one have."""
        while self.unfilled:
            _, queue = self.unfilled.popitem()
            self.fill(queue, now, out)
            self.touch(queue, now, out)

    def throttle(self, queue: DeploymentQueue, now: float) -> bool:
        """Return whether a queue's rate lets nothing start now; it is looked at again in time.

        A limit needs the starts of those before us, so nothing starts until all records are read.
        """
        if not queue.rate.count:
            return False
        if self.keys.closed or queue.rate.free_at(now) > now:
            self.throttled[queue.deployment_id] = queue
            return True
        self.throttled.pop(queue.deployment_id, None)
        return False

    # -- Losing ---------------------------------------------------------------------------------

    def lose(
        self,
        item: Item,
        cause: str,
        error: RemoteError | None,
        now: float,
        out: list[Decision],
    ) -> None:
        """A flying item's attempt is lost. The caller fills the queue and announces."""
        if not item.durable:
            out.append(SendLost(item.invocation_id, item.attempt, item.reply_to, cause, error))
            self.forget(item, now)
        elif item.state is State.RUNNING:
            self.land(item, Place.WRITING, now)
            self.retry(item, cause, error, now, out)
        else:  # handed, and nobody claimed it: its record still says so
            self.land(item, Place.GONE, now)
            self.wait(item, now)

    def retry(
        self,
        item: Item,
        cause: str,
        error: RemoteError | None,
        now: float,
        out: list[Decision],
    ) -> None:
        """A durable attempt that ran is lost: try again, or give up when that happened too often."""
        again = item.lost_attempts < PLATFORM_RETRIES_MAX
        state = State.RETRY_WAIT if again else State.DEAD
        self.write(item, state, cause, error, now, out)

    def fail(self, item: Item, error: RemoteError, now: float, out: list[Decision]) -> None:
        """A waiting item can't ever start: its caller gets the error."""
        if item.durable:
            if item.place is Place.WAITING:
                item.queue.remove(item, Place.WRITING)
            self.write(item, State.FAILED, "start_failed", error, now, out)
            return
        out.append(SendLost(item.invocation_id, item.attempt, item.reply_to, "start_failed", error))
        self.ack(item.sequence, item.invocation_id, now, out)
        self.forget(item, now)

    def write(
        self,
        item: Item,
        state: State,
        cause: str,
        error: RemoteError | None,
        now: float,
        out: list[Decision],
    ) -> None:
        """Change a record; the item (already in place WRITING) stays until the change is seen."""
        item.place = Place.WRITING
        item.since = now
        item.next_state, item.cause, item.error = state, cause, error
        out.append(
            WriteRecord(item.invocation_id, item.workspace, item.sequence, state, cause, error)
        )
        self.remind(now + REWRITE_AFTER_S, item, Place.WRITING)

    # -- Telling --------------------------------------------------------------------------------

    def touch(self, queue: DeploymentQueue, now: float, out: list[Decision]) -> None:
        """The figures of a deployment changed: announce them now, or as soon as they may be."""
        if now - queue.announced_at >= ANNOUNCE_EVERY_S:
            self.announce(queue, now, out)
        elif not queue.dirty:
            queue.dirty = True
            self.dirty[queue.deployment_id] = queue

    def announce(self, queue: DeploymentQueue, now: float, out: list[Decision]) -> None:
        """Announce a deployment's figures."""
        oldest = queue.oldest()
        brief = sum(queue.brief.values())
        queue.announced_at = queue.active_at = now
        self.announcements += 1
        if queue.dirty:
            queue.dirty = False
            del self.dirty[queue.deployment_id]
        out.append(
            AnnounceBacklog(
                BacklogChanged(
                    deployment_id=queue.deployment_id,
                    queued=queue.queued_inputs,
                    in_flight=queue.flying_inputs + brief,
                    oldest_age_s=0.0 if oldest is None else max(0.0, now - oldest.arrived),
                    arrivals=queue.arrivals,
                    shard=self.shard,
                    trace="" if oldest is None else oldest.trace,
                    held=queue.items - queue.waiting - queue.flying,
                    generation=self.generation,
                    number=self.announcements,
                )
            )
        )
        if brief:  # it is over already: the next announcement says so
            queue.brief.clear()
            queue.dirty = True
            self.dirty[queue.deployment_id] = queue

    # -- Containers -----------------------------------------------------------------------------

    def reopen(self, container: Container) -> None:
        """Judge anew whether a container may be given work."""
        container.open = (
            container.state is ContainerState.READY
            and not container.refusing
            and container.worker_id not in self.draining
            and self.liveness.usable(container.worker_id)
        )
        container.queue.changed(container)


def _still_due(entry: Due) -> bool:
    _, _, item, place, since = entry
    if place is Place.GONE:  # an expiry: counts as long as the item is known
        return item.place is not Place.GONE
    return item.place is place and item.since == since
