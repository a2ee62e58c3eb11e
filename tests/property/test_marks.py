"""Marks of times in a bucket: whoever marks in whatever order, the latest counts, and tidying changes nothing."""

from __future__ import annotations

from glowplug_imagecache.marks import (
    LONG_AGO,
    mark,
    mark_given_up,
    marked,
    marks_of,
    superseded,
    wanted_at,
)
from hypothesis import given
from hypothesis import strategies as st

PATH = "blobs/ab/" + "ab" * 32
TIMES = st.integers(2, 10**10)
MARKS = st.lists(st.tuples(st.booleans(), TIMES), max_size=8)


def names(marks: list[tuple[bool, int]]) -> list[str]:
    return [mark_given_up(PATH, at) if gives_up else mark(PATH, at) for gives_up, at in marks]


@given(MARKS, TIMES)
def test_the_latest_counts(marks: list[tuple[bool, int]], written_at: int) -> None:
    latest = max([written_at, *(at for gives_up, at in marks if not gives_up)])
    given_up = max([at for gives_up, at in marks if gives_up], default=0)
    expected = LONG_AGO if given_up > latest else latest
    assert wanted_at(written_at, names(marks)) == expected
    assert wanted_at(written_at, reversed(names(marks))) == expected


@given(MARKS, TIMES)
def test_what_is_superseded_says_nothing(marks: list[tuple[bool, int]], written_at: int) -> None:
    every = set(names(marks))
    idle = superseded(every)
    assert idle <= every
    assert wanted_at(written_at, every - idle) == wanted_at(written_at, every)
    assert len(every - idle) <= 2
    assert superseded(every - idle) == set()


@given(st.floats(1.0, 1e11))
def test_a_mark_keeps_at_least_as_long_as_was_said(until: float) -> None:
    found = marked(mark(PATH, until))
    assert found is not None
    assert found[0] == PATH
    assert until <= found[1] <= until + 1
    assert mark(PATH, until).startswith(f"{marks_of(PATH)}/")


@given(st.text("until/abz09-", max_size=40))
def test_other_names_are_no_marks(name: str) -> None:
    found = marked(name)
    assert found is None or name in {mark(found[0], found[1]), mark_given_up(found[0], found[1])}
