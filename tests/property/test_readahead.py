"""Guesses of what is read next: bounded, of use to who reads in order, and in nobody's way."""

from __future__ import annotations

from collections.abc import Iterable

from glowplug_worker.images.mounts import filling, readahead
from glowplug_worker.images.mounts.filling import Answer, Decision, Fetch, Filling
from glowplug_worker.images.mounts.readahead import guesses
from hypothesis import given
from hypothesis import strategies as st

KIB, MIB = 1024, 1024 * 1024
SIZES = st.lists(st.integers(1, MIB), min_size=2, max_size=60)


class Tree:
    """A daemon's decisions about two tables of objects; a fetch ends when the test says so."""

    def __init__(self, sizes: list[int], packs: int) -> None:
        self.tables = range(packs), range(packs, len(sizes))
        self.filling = Filling(sizes, self.tables, 0.0)
        self.fetches: list[tuple[int, ...]] = []
        self.answered: list[int] = []
        self.order: list[Decision] = []
        self.tickets = 0

    def read(self, number: int) -> bool:
        """Read an object; return whether that needs no waiting."""
        self.tickets += 1
        self.do(self.filling.needed(self.tickets, [number], 0.0))
        return self.tickets in self.answered

    def do(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self.order.append(decision)
            if isinstance(decision, Fetch):
                self.fetches.append(decision.objects)
            elif isinstance(decision, Answer):
                self.answered.append(decision.ticket)
        self.filling.check()

    def end(self, which: int = 0) -> None:
        objects = self.fetches.pop(which)
        self.do(self.filling.arrived(objects, 0.0))
        self.do(self.filling.ended(0.0))

    def end_all(self) -> None:
        while self.fetches:
            self.end()


@st.composite
def reads(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    sizes = draw(SIZES)
    packs = draw(st.integers(0, len(sizes)))
    return sizes, packs, draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=20))


@given(reads())
def test_guesses_are_few_and_of_the_same_table(drawn):
    sizes, packs, numbers = drawn
    for number in numbers:
        table = range(packs) if number < packs else range(packs, len(sizes))
        found = list(guesses(number, sizes, table, set(numbers)))
        assert len(found) == len(set(found))
        assert set(found) <= set(table) - {number}
        near = [each for each in found if not number < each <= number + readahead.RUN_OBJECTS_MAX]
        assert sum(sizes[each] for each in near) <= 2 * readahead.NEAR_BYTES_MAX
        assert len(found) <= 2 * readahead.NEAR_OBJECTS_MAX + readahead.RUN_OBJECTS_MAX


@given(SIZES)
def test_what_is_far_from_all_reads_is_not_guessed(sizes):
    """A large object, alone: what stands beside it is moved only if it is within the bound."""
    number = len(sizes) // 2
    found = set(guesses(number, sizes, range(len(sizes)), {number}))
    for step in (1, -1):
        room, at = readahead.NEAR_BYTES_MAX, number + step
        while 0 <= at < len(sizes) and sizes[at] <= room:
            assert at in found
            room -= sizes[at]
            at += step
        assert not found & set(range(at, len(sizes) if step > 0 else -1, step))


@given(st.lists(st.integers(1, MIB), min_size=5, max_size=60), st.integers(0, 20))
def test_who_reads_in_order_waits_for_the_first_ones_only(sizes, first):
    tree = Tree(sizes, 0)
    waits = []
    for number in range(min(first, len(sizes) - 1), len(sizes)):
        if not tree.read(number):
            waits.append(number)
        tree.end_all()
    assert len(waits) <= readahead.RUN_OBJECTS_MIN


@given(reads(), st.lists(st.integers(0, 9), max_size=30))
def test_a_reader_never_waits_for_a_guess_to_be_over(drawn, ends):
    """While guesses are on their way, and none ends, what is asked for is fetched at once, and alone."""
    sizes, packs, numbers = drawn
    tree = Tree(sizes, packs)
    for number, which in zip(numbers, ends, strict=False):
        before = len(tree.order)
        on_its_way = any(number in fetch for fetch in tree.fetches)
        if not tree.read(number) and not on_its_way:
            assert tree.order[before] == Fetch((number,))
            # It comes; and only then is anything guessed because of it.
            assert len(tree.order) == before + 1
            tree.end(len(tree.fetches) - 1)
            assert tree.order[before + 1] == Answer(tree.tickets, 0)
        if tree.fetches and which % 3 == 0:
            tree.end(which % len(tree.fetches))


@given(reads())
def test_what_was_only_guessed_is_not_noted_as_read(drawn):
    sizes, packs, numbers = drawn
    tree = Tree(sizes, packs)
    for number in numbers:
        tree.read(number)
        tree.end_all()
    assert list(tree.filling.read) == list(dict.fromkeys(numbers))


def test_what_a_source_lied_about_is_not_guessed_again():
    tree = Tree([4 * KIB] * 10, 10)
    tree.read(4)
    tree.end()
    (guessed,) = tree.fetches
    assert set(guessed) == set(range(10)) - {4}
    tree.do(tree.filling.missed(guessed, "lie", 0.0))
    tree.fetches.clear()
    tree.do(tree.filling.ended(0.0))
    assert not tree.read(5)
    tree.end()
    assert tree.fetches == []
    assert not tree.read(6), "whoever reads it has it tried"
    assert tree.fetches == [(6,)]


def test_old_guesses_make_room_for_the_latest():
    """With all that may be fetched ahead under way, later reads' neighbours come first, and the oldest are let go."""
    sizes = [readahead.NEAR_BYTES_MAX] * 4000
    tree = Tree(sizes, 0)
    stuck: list[tuple[int, ...]] = []
    for number in range(1, 4000, 10):
        tree.read(number)
        tree.end(next(at for at, each in enumerate(tree.fetches) if number in each))
        stuck = list(tree.fetches)
    assert len(stuck) == filling.FETCHES_AHEAD_MAX
    tree.end()
    assert {3990, 3992} & set(tree.fetches[-1])
    tree.end_all()
    assert sum(map(tree.filling.there, range(4000))) < 400 + filling.GUESSES_MAX + 10
