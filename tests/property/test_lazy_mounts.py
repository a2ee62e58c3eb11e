"""Readers, holder and daemon under arbitrary events: nobody goes on without his bytes, and nobody is forgotten.

The world is a device of a few objects, a holder that lives, and daemons that die. Fetches end as the test
says: written, lied about, away, or without room. What counts is the device: a reader that goes on finds
there what it asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from glowplug_worker.images.mounts import filling, holding
from glowplug_worker.images.mounts.filling import Fetch, Filled, Filling
from glowplug_worker.images.mounts.holding import Holding, Reader, Reply
from glowplug_worker.images.mounts.ranges import Ranges
from glowplug_worker.images.mounts.wire import Answer, Need
from hypothesis import given
from hypothesis import strategies as st

DEVICE = 7
SIZE = 10
OBJECTS = 80
TABLES = (range(50), range(50, OBJECTS))


class World:
    """Performs what both machines decide. Object n lies at n * SIZE."""

    def __init__(self) -> None:
        self.now = 0.0
        self.written: set[int] = set()
        self.holding = Holding()
        self.holding.watch(DEVICE)
        self.filling: Filling | None = None
        self.fetches: list[tuple[int, ...]] = []
        self.filled = 0
        self.readers = 0
        self.waiting: dict[Reader, Need | None] = {}
        self.ended: list[tuple[Reader, int]] = []
        self.needs: dict[int, Need] = {}
        self.prefetches: set[int] = set()

    def read(self, first: int, count: int) -> None:
        self.readers += 1
        reader = Reader(0, self.readers)
        self.waiting[reader] = None
        self.hold(self.holding.need(reader, DEVICE, first * SIZE, count * SIZE, self.now))

    def hold(self, decisions: Iterable[holding.Reply | holding.Send]) -> None:
        for decision in list(decisions):
            if isinstance(decision, Reply):
                assert decision.reader in self.waiting, "nobody is answered twice"
                del self.waiting[decision.reader]
                self.ended.append((decision.reader, decision.error))
                objects = range(
                    decision.need.offset // SIZE,
                    (decision.need.offset + decision.need.size) // SIZE,
                )
                assert decision.error or set(objects) <= self.written, "nobody reads zeros"
            elif self.filling is not None:
                need = decision.need
                self.needs[need.ticket] = need
                first, end = need.offset // SIZE, (need.offset + need.size) // SIZE
                self.fill(self.filling.needed(need.ticket, range(first, end), self.now))

    def fill(self, decisions: Iterable[filling.Decision]) -> None:
        for decision in list(decisions):
            if isinstance(decision, Fetch):
                assert not set(decision.objects) & {n for fetch in self.fetches for n in fetch}
                self.fetches.append(decision.objects)
            elif isinstance(decision, Filled):
                self.filled += 1
                assert self.written == set(range(OBJECTS))
            elif decision.ticket < 0:
                self.prefetches.discard(decision.ticket)
                assert decision.error == 0
            else:
                need = self.needs.pop(decision.ticket)
                there = (0, 0) if decision.error else (need.offset, need.offset + need.size)
                answer = Answer(need.ticket, decision.error, DEVICE, *there)
                self.hold(self.holding.answered(answer))
        if self.filling is not None:
            self.filling.check()

    def daemon_comes(self) -> None:
        if self.filling is None:
            self.filling, self.filled = Filling([1] * OBJECTS, TABLES, self.now), 0
            self.hold(self.holding.daemon_came())

    def daemon_dies(self) -> None:
        self.filling, self.fetches = None, []
        self.needs.clear()
        self.prefetches.clear()
        self.holding.daemon_went(self.now)

    def fetched(self, which: int, ends: str) -> None:
        """End a fetch: half of it well, whatever becomes of the rest."""
        if self.filling is None or not self.fetches:
            return
        objects = self.fetches.pop(which % len(self.fetches))
        half = len(objects) if ends == "well" else len(objects) // 2
        self.written |= set(objects[:half])
        self.fill(self.filling.arrived(objects[:half], self.now))
        why = ends if ends in {"away", "lie", "full"} else "away"
        self.fill(self.filling.missed(objects[half:], why, self.now))  # type: ignore[arg-type]
        self.fill(self.filling.ended(self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.hold(self.holding.passed(self.now))
        if self.filling is not None:
            self.fill(self.filling.passed(self.now))


EVENTS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, OBJECTS - 5), st.integers(0, 5)),
    st.tuples(
        st.just("fetched"), st.integers(0, 3), st.sampled_from(["well", "away", "lie", "full"])
    ),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 20.0, 61.0])),
    st.tuples(st.just("prefetch"), st.lists(st.integers(0, OBJECTS - 1), max_size=6)),
    st.tuples(st.sampled_from(["come", "die"])),
)


def play(world: World, event: tuple) -> None:
    match event:
        case ("read", first, count):
            world.read(first, count)
        case ("fetched", which, ends):
            world.fetched(which, ends)
        case ("pass", seconds):
            world.passes(seconds)
        case ("prefetch", objects) if world.filling is not None:
            world.readers += 1
            ticket = -world.readers
            world.prefetches.add(ticket)
            world.fill(world.filling.prefetch(ticket, objects, world.now))
        case ("come",):
            world.daemon_comes()
        case ("die",):
            world.daemon_dies()


@given(st.lists(EVENTS, max_size=60))
def test_nobody_reads_zeros_and_once_all_is_well_everybody_goes_on(events):
    world = World()
    world.daemon_comes()
    for event in events:
        play(world, event)
    # Healed: a daemon, and a source that gives what is asked. All who wait go on, then all is filled.
    world.daemon_comes()
    for _ in range(400):
        world.fetched(0, "well")
        world.passes(0.3)
        if world.filled:
            break
    assert not world.waiting
    assert not world.prefetches
    assert world.filled == 1
    assert world.written == set(range(OBJECTS))


@given(st.lists(EVENTS, max_size=40))
def test_when_the_end_has_begun_nobody_waits_any_more(events):
    world = World()
    for event in events:
        play(world, event)
    world.hold(world.holding.close())
    assert not world.waiting
    before = len(world.ended)
    world.read(0, 1)
    assert len(world.ended) == before + 1, "whoever comes later is answered at once"


def test_a_daemon_that_does_not_come_back_is_waited_for_a_minute():
    world = World()
    world.daemon_comes()
    world.daemon_dies()
    world.passes(10)
    world.read(3, 1)
    world.passes(holding.NO_DAEMON_S - 11)
    assert world.waiting
    world.passes(1)
    assert [error for _, error in world.ended] == [errno.EIO]


def test_a_source_that_is_away_is_waited_for_and_one_that_lies_is_not():
    for why, waits_s in (("away", filling.WAIT_S), ("lie", 1.0)):
        world = World()
        world.daemon_comes()
        world.read(3, 1)
        while world.waiting:
            world.fetched(0, why)
            world.passes(0.26)
        assert [error for _, error in world.ended] == [errno.EIO]
        assert world.now >= waits_s if why == "away" else world.now <= waits_s + 1
    world = World()
    world.daemon_comes()
    world.read(3, 1)
    world.fetched(0, "full")
    assert [error for _, error in world.ended] == [errno.ENOSPC]


def test_what_was_missed_while_filling_is_tried_again_later():
    world = World()
    world.daemon_comes()
    world.passes(filling.IDLE_S)
    while world.fetches:
        world.fetched(0, "lie")
    missing = set(range(OBJECTS)) - world.written
    assert missing
    assert not world.filled
    world.passes(filling.IDLE_AGAIN_S)
    while world.fetches:
        world.fetched(0, "well")
    assert world.filled


def test_readers_come_before_what_nobody_waits_for():
    world = World()
    world.daemon_comes()
    assert world.filling is not None
    world.fill(world.filling.prefetch(-1, range(OBJECTS), world.now))
    world.read(OBJECTS - 1, 1)
    assert any(OBJECTS - 1 in fetch for fetch in world.fetches), "a slot is kept free for it"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=40), st.integers(0, 60))
def test_ranges_know_exactly_what_was_added(added, at):
    ranges, wanted = Ranges(), set()
    for start, count in added:
        ranges.add(start, start + count)
        wanted |= set(range(start, start + count))
    for count in range(1, 12):
        assert ranges.covers(at, at + count) == (set(range(at, at + count)) <= wanted)
    assert len(ranges) == sum(1 for each in wanted if each - 1 not in wanted)
