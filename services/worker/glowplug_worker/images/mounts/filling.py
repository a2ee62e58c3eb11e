"""Which objects are fetched when, and who waits for them: the daemon's decisions about one tree. A pure machine.

An object is absent, on its way, or there; what is there stays. Readers come first, then what a start is known to
read, then what stands near that which was read (`readahead.py`), then, when nobody has read anything for a while, all
the rest. A reader goes on when all of its objects are there. Lies and full disks fail it soon, a source that is away
after a minute.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from glowplug_worker.images.mounts.readahead import guesses

# One round trip to the store: enough for a gigabyte a second, little enough that the first bytes come soon.
BATCH_OBJECTS_MAX = 64
BATCH_BYTES_MAX = 8 * 1024 * 1024
# Of guesses. A reader whose object is among them waits for the whole batch.
GUESSED_BYTES_MAX = 1024 * 1024
# At once, and of these for what nobody waits for: the others are kept free for readers.
FETCHES_MAX = 6
FETCHES_AHEAD_MAX = 3
# The latest are kept: what was guessed long ago, and not fetched yet, was not wanted.
GUESSES_MAX = 256
# A source that lies about an object may have a replica that does not.
LIES_MAX = 3
TRY_AGAIN_S = 0.25
WAIT_S = 60.0
# Nobody has read for so long: the rest is fetched.
IDLE_S = 1.0
IDLE_AGAIN_S = 30.0

Why = Literal["away", "lie", "full"]
_ABSENT, _COMING, _THERE = 0, 1, 2


class Fetch(msgspec.Struct, frozen=True):
    """Get these objects, verify and write them; then say `arrived` or `missed` of each."""

    objects: tuple[int, ...]


class Answer(msgspec.Struct, frozen=True):
    """All that a ticket waited for is there (`error` 0), or it fails."""

    ticket: int
    error: int


class Filled(msgspec.Struct, frozen=True):
    """Everything is there. Said once."""


Decision = Fetch | Answer | Filled


class Filling:
    """See the module.

    Args:
        sizes: of the tree's objects.
        tables: the numbers of those that stand in order: packs, and then pieces.
        now: monotonic seconds.
    """

    def __init__(self, sizes: Sequence[int], tables: Sequence[range], now: float) -> None:
        self._sizes, self._tables = sizes, tables
        self._states = bytearray(len(sizes))
        self._left = len(sizes)
        self._waiting: dict[int, tuple[set[int], float, bool]] = {}
        self._wanted_by: dict[int, set[int]] = {}
        self._urgent: deque[int] = deque()
        self._ahead: deque[int] = deque()
        self._guessed: deque[int] = deque(maxlen=GUESSES_MAX)
        self._cursor = 0
        self._batches = 0
        self._lies: dict[int, int] = {}
        self._not_before = 0.0
        self._idle_from = now + IDLE_S
        self._told = False
        self._read: dict[int, None] = {}

    @property
    def read(self) -> Sequence[int]:
        """Return the objects that were read, in the order in which each was first read."""
        return tuple(self._read)

    def there(self, number: int) -> bool:
        """Return whether an object is there."""
        return self._states[number] == _THERE

    def needed(self, ticket: int, objects: Sequence[int], now: float) -> Iterator[Decision]:
        """A reader waits for some objects."""
        for number in objects:
            if number not in self._read:
                self._read[number] = None
                if self._states[number] == _THERE:
                    self._guess(number)
        self._idle_from = max(self._idle_from, now + IDLE_S)
        yield from self._wait(ticket, objects, now, reader=True)
        yield from self._go_on(now)

    def prefetch(self, ticket: int, objects: Sequence[int], now: float) -> Iterator[Decision]:
        """Get these next. The ticket is answered, always with 0, when each is there or was given up."""
        self._ahead.extend(objects)
        yield from self._wait(ticket, objects, now, reader=False)
        yield from self._go_on(now)

    def arrived(self, objects: Sequence[int], now: float) -> Iterator[Decision]:
        """Some objects of a fetch are there, verified and written."""
        for number in objects:
            assert self._states[number] == _COMING  # noqa: S101 - the caller's bug
            self._states[number] = _THERE
            self._left -= 1
            self._lies.pop(number, None)
            for ticket in sorted(self._wanted_by.pop(number, ())):
                yield from self._one_less(ticket, number)
            if number in self._read:
                self._guess(number)
        yield from self._go_on(now)

    def missed(self, objects: Sequence[int], why: Why, now: float) -> Iterator[Decision]:
        """Some objects of a fetch are not there."""
        if why == "away" and objects:
            self._not_before = now + TRY_AGAIN_S
        for number in objects:
            self._states[number] = _ABSENT
            self._lies[number] = self._lies.get(number, 0) + (why == "lie")
            hopeless = why == "full" or self._lies[number] >= LIES_MAX
            for ticket in sorted(self._wanted_by.get(number, ())):
                if not self._waiting[ticket][2]:
                    self._wanted_by[number].discard(ticket)
                    yield from self._one_less(ticket, number)
                elif hopeless:
                    yield self._give_up(ticket, errno.ENOSPC if why == "full" else errno.EIO)
            if hopeless:
                self._lies.pop(number, None)  # a later reader has it tried again
            if self._wanted_by.get(number):
                self._urgent.append(number)
            else:
                self._wanted_by.pop(number, None)
        yield from self._go_on(now)

    def ended(self, now: float) -> Iterator[Decision]:
        """A fetch is over: all of its objects have been spoken of."""
        self._batches -= 1
        yield from self._go_on(now)

    def passed(self, now: float) -> Iterator[Decision]:
        """Time has passed."""
        late = [
            t for t, (_, since, reader) in self._waiting.items() if reader and now >= since + WAIT_S
        ]
        for ticket in late:
            yield self._give_up(ticket, errno.EIO)
        yield from self._go_on(now)

    def forget(self) -> Iterator[Decision]:
        """The tree is not served any more."""
        for ticket in list(self._waiting):
            yield self._give_up(ticket, errno.EIO)

    def _guess(self, number: int) -> None:
        table = next(table for table in self._tables if number in table)
        found = guesses(number, self._sizes, table, self._read)
        wanted = [n for n in found if self._states[n] == _ABSENT and not self._lies.get(n)]
        self._guessed.extendleft(reversed(wanted))  # the oldest fall out

    def _wait(
        self, ticket: int, objects: Sequence[int], now: float, *, reader: bool
    ) -> Iterator[Decision]:
        missing = {number for number in objects if self._states[number] != _THERE}
        if not missing:
            yield Answer(ticket, 0)
            return
        self._waiting[ticket] = (missing, now, reader)
        for number in sorted(missing):
            self._wanted_by.setdefault(number, set()).add(ticket)
            if reader and self._states[number] == _ABSENT:
                self._urgent.append(number)

    def _one_less(self, ticket: int, number: int) -> Iterator[Decision]:
        missing = self._waiting[ticket][0]
        missing.discard(number)
        if not missing:
            del self._waiting[ticket]
            yield Answer(ticket, 0)

    def _give_up(self, ticket: int, error: int) -> Decision:
        missing, _, reader = self._waiting.pop(ticket)
        for number in missing:
            self._wanted_by[number].discard(ticket)
            if not self._wanted_by[number]:
                del self._wanted_by[number]
        return Answer(ticket, error if reader else 0)

    def _go_on(self, now: float) -> Iterator[Decision]:
        if not self._left:
            if not self._told:
                self._told = True
                yield Filled()
            return
        if now < self._not_before:
            return
        while self._batches < FETCHES_MAX:
            batch = self._next_batch(now)
            if not batch:
                return
            self._batches += 1
            for number in batch:
                self._states[number] = _COMING
            yield Fetch(batch)

    def _next_batch(self, now: float) -> tuple[int, ...]:
        if batch := self._take(self._urgent):
            return batch
        if self._batches >= FETCHES_AHEAD_MAX:
            return ()
        if batch := self._take(self._ahead) or self._take(self._guessed, GUESSED_BYTES_MAX):
            return batch
        if self._batches or now < self._idle_from:
            return ()
        while self._cursor < len(self._sizes):
            end = min(self._cursor + BATCH_OBJECTS_MAX, len(self._sizes))
            rest = deque(range(self._cursor, end))
            batch = self._take(rest)
            self._cursor = rest[0] if rest else end
            if batch:
                return batch
        # What was missed on the way is tried again later.
        self._cursor, self._idle_from = 0, now + IDLE_AGAIN_S
        return ()

    def _take(self, queue: deque[int], bytes_max: int = BATCH_BYTES_MAX) -> tuple[int, ...]:
        """Take absent objects off a queue, until a batch is full."""
        taken: dict[int, None] = {}
        size = 0
        while queue and len(taken) < BATCH_OBJECTS_MAX:
            number = queue[0]
            if self._states[number] == _ABSENT and number not in taken:
                if taken and size + self._sizes[number] > bytes_max:
                    break
                taken[number] = None
                size += self._sizes[number]
            queue.popleft()
        return tuple(taken)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        for ticket, (missing, _, reader) in self._waiting.items():
            assert missing, "F1: who waits, waits for something"  # noqa: S101
            for number in missing:
                assert self._states[number] != _THERE, "F2: nobody waits for what is there"  # noqa: S101
                assert ticket in self._wanted_by[number], "F3: it is known who waits"  # noqa: S101
                queue = self._urgent if reader else (*self._urgent, *self._ahead)
                queued = self._states[number] == _COMING or number in queue
                assert queued, "F4: what is waited for is on its way, or will be"  # noqa: S101
        assert set(self._wanted_by) == {  # noqa: S101
            number for missing, _, _ in self._waiting.values() for number in missing
        }, "F5: nothing is wanted by nobody"
        assert 0 <= self._batches <= FETCHES_MAX, "F6: fetches are bounded"  # noqa: S101
