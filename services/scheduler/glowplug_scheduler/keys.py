"""What of one key may run beside each other. Pure.

A key spans the deployments of a shard (the versions of a function). An item *holds* its key from the
moment it may wait for a slot until it is forgotten; work with a limit lets go while it pauses between two
tries, work in order does not: nothing overtakes it, whatever becomes of it. What can't hold its key yet
lies in a heap, best first: by priority and arrival, or in the order of acceptance.

Invariants: K1 no key has more holders than the largest limit among them, but for what already ran when
it was first heard of; K2 of a key in order, only the oldest holds (one that is `late` was overtaken before it
was first heard of, or under the owner before, or ran then beside another); K3 nothing lies in the heap
while its key has room.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from glowplug_contracts.ids import InvocationId

from glowplug_scheduler.queues import Item, Place

_STALE_ALLOWED = 64


class Key:
    """One key: who holds it, and who would like to."""

    def __init__(self) -> None:
        self.holders: dict[InvocationId, Item] = {}
        self.leaving: set[InvocationId] = set()  # cancelled, and its code may still run
        self._heap: list[tuple[int, int, int, Item]] = []
        self._pushes = 0

    @property
    def idle(self) -> bool:
        """Return whether nobody needs this key to be remembered."""
        return not self.holders and not self.leaving and self.best() is None

    def push(self, item: Item) -> None:
        """Let an item lie here until there is room."""
        self._pushes += 1
        rank = (0, item.order) if item.key_limit == 0 else (-item.priority, item.ticket)
        heapq.heappush(self._heap, (*rank, self._pushes, item))
        if len(self._heap) > _STALE_ALLOWED and self._pushes % len(self._heap) == 0:
            self._heap = [entry for entry in self._heap if _wants(entry[3])]
            heapq.heapify(self._heap)

    def overtake(self, order: int) -> None:
        """Somebody of this place in the order runs already: whoever lies here and came before is late."""
        for *_, item in self._heap:
            item.late = item.late or item.order < order

    def best(self) -> Item | None:
        """Return who is next, leaving it here."""
        while self._heap:
            item = self._heap[0][3]
            if _wants(item):
                return item
            heapq.heappop(self._heap)
        return None

    def has_room(self, item: Item) -> bool:
        """Return whether this item may hold the key now."""
        return len(self.holders) + len(self.leaving) < max(1, item.key_limit)

    def worst_waiting(self) -> Item | None:
        """Return the holder that waits for a slot and would be the last to get it.

        Never one that was handed before: its worker may yet begin it, however late it hears of it.
        """
        waiting = [
            h
            for h in self.holders.values()
            if h.place is Place.WAITING and h.handed_attempt <= h.attempt
        ]
        return max(waiting, key=lambda h: (-h.priority, h.ticket), default=None)


class Keys:
    """Every key of a shard. While `closed`, nobody new may hold one: not everything is known yet."""

    def __init__(self) -> None:
        self.closed = True
        self._keys: dict[str, Key] = {}
        self._missing: dict[str, int] = {}

    def close(self) -> None:
        """Everything will be told again: nobody new may hold a key until then."""
        self.closed = True
        self._missing.clear()

    def miss(self, name: str, order: int) -> None:
        """Of a key in order something is not known here; what came after it must not begin."""
        self._missing[name] = min(order, self._missing.get(name, order))

    def of(self, item: Item) -> Key:
        """Return an item's key."""
        found = self._keys.get(item.key)
        if found is None:
            found = self._keys[item.key] = Key()
        return found

    def comes_late(self, item: Item, *, runs: bool) -> bool:
        """Return whether an item of a key in order, just heard of, was overtaken or runs beside another."""
        key = self._keys.get(item.key)
        if key is None or item.key_limit != 0:
            return False
        ordered = (h for h in key.holders.values() if h.key_limit == 0)
        return any(runs or h.order > item.order for h in ordered)

    def hold(self, item: Item) -> None:
        """It runs: it holds its key, whatever the limit says."""
        key = self.of(item)
        if item.key_limit == 0 and item.invocation_id not in key.holders:
            key.overtake(item.order)  # the owner before us did not know of them
        item.holds_key = True
        key.holders[item.invocation_id] = item

    def ask(self, item: Item) -> Iterator[Item]:
        """An item would like to hold its key; yield those that do so from now on.

        Of higher priority than a holder that never had a slot, it takes that one's place; that one is
        HELD then, and out of its queue.
        """
        key = self.of(item)
        key.push(item)
        if not self.closed and item.key_limit > 0 and not key.has_room(item):
            worst = key.worst_waiting()
            if worst is not None and worst.priority < item.priority:
                del key.holders[worst.invocation_id]
                worst.holds_key = False
                worst.queue.remove(worst, Place.HELD)
                key.push(worst)
        yield from self._grant(key)

    def release(self, item: Item, *, leaving: bool = False) -> Iterator[Item]:
        """An item lets go of its key (or, `leaving`, will soon); yield those that hold it now."""
        key = self._keys.get(item.key)
        if key is None:
            return
        item.holds_key = False
        key.holders.pop(item.invocation_id, None)
        if leaving:
            key.leaving.add(item.invocation_id)
        yield from self._grant(key)
        if key.idle:
            del self._keys[item.key]

    def crowds(self, item: Item) -> bool:
        """Return whether it holds its key beyond the limit: it ran when it was first heard of, and does no more.

        Not if it was handed since: its worker may yet begin it.
        """
        key = self._keys.get(item.key)
        if key is None or not item.holds_key or item.key_limit == 0:
            return False
        crowded = len(key.holders) + len(key.leaving) > item.key_limit
        return crowded and item.handed_attempt <= item.attempt

    def leave(self, name: str, invocation_id: InvocationId) -> None:
        """What is not known here was cancelled, and its code may still run."""
        self._keys.setdefault(name, Key()).leaving.add(invocation_id)

    def left(self, name: str, invocation_id: InvocationId) -> Iterator[Item]:
        """What was `leaving` has left."""
        key = self._keys.get(name)
        if key is not None:
            key.leaving.discard(invocation_id)
            yield from self._grant(key)
            if key.idle:
                del self._keys[name]

    def open(self) -> Iterator[Item]:
        """Everything is known: yield those that hold a key from now on."""
        self.closed = False
        for key in list(self._keys.values()):
            yield from self._grant(key)

    def check(self) -> None:
        """Raise AssertionError if K1 to K3 do not hold (what ran already is not counted for K1)."""
        for name, key in self._keys.items():
            claimed = [
                h
                for h in key.holders.values()
                if (h.place is Place.WAITING or h.own) and not h.late
            ]
            most = max((max(1, h.key_limit) for h in claimed), default=0)
            assert len(claimed) <= most, f"K1: {name}"  # noqa: S101
            best = key.best()
            if best is None:
                continue
            assert not self._may_hold(key, best), f"K3: {name}"  # noqa: S101
            ordered = [h for h in key.holders.values() if h.key_limit == 0]
            if best.key_limit == 0 and not self.closed and not best.late:
                assert all(h.order <= best.order for h in ordered if h.own), f"K2: {name}"  # noqa: S101

    def _grant(self, key: Key) -> Iterator[Item]:
        while (best := key.best()) is not None and self._may_hold(key, best):
            best.holds_key = True
            key.holders[best.invocation_id] = best
            yield best

    def _may_hold(self, key: Key, item: Item) -> bool:
        if self.closed or not key.has_room(item):
            return False
        missing = self._missing.get(item.key) if item.key_limit == 0 else None
        return missing is None or item.order < missing


def _wants(item: Item) -> bool:
    """Return whether an entry of the heap still counts: it lies HELD, or pauses and keeps its turn."""
    if item.holds_key:
        return False
    return item.place is Place.HELD or (item.key_limit == 0 and item.place is Place.DELAYED)
