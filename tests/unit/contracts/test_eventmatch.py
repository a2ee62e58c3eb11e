"""Patterns and filters: what they match, and that they can't be made to cost much."""

from __future__ import annotations

import fnmatch

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.eventmatch import (
    FILTER_DEPTH_MAX,
    Glob,
    check_trigger,
    compile_filter,
    compile_pattern,
    compile_trigger,
)
from glowplug_contracts.messages.event import EventFilter, TriggerSpec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders_events import an_event

EVENT = an_event(subject="uploads/a.b.pdf", extensions={"tenant": "x"})


@pytest.mark.parametrize(
    ("pattern", "text", "yes"),
    [
        ("com.example.made", "com.example.made", True),
        ("com.example.made", "com.example.made2", False),
        ("com.*.made", "com.example.made", True),
        ("com.*.made", "com.a.b.made", False),
        ("com.*", "com.", True),
        ("com.**", "com.a.b", True),
        ("**.made", "com.example.made", True),
        ("**", "", True),
        ("c?m", "com", True),
        ("c?m", "c.m", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("*a*b*", "xxaxxbxx", True),
        ("type:com.*.made", "com.example.made", True),
    ],
)
def test_patterns_of_types(pattern, text, yes):
    assert compile_pattern(pattern)(an_event(type=text)) is yes


@pytest.mark.parametrize(
    ("pattern", "yes"),
    [
        ("subject:uploads/*.pdf", True),
        ("subject:*.pdf", False),
        ("subject:**.pdf", True),
        ("subject:uploads/a.b.pdf", True),
        ("subject:uploads/**", True),
        ("subject:*", False),
    ],
)
def test_patterns_of_subjects_are_divided_by_slashes(pattern, yes):
    assert compile_pattern(pattern)(EVENT) is yes


@given(
    st.lists(st.sampled_from(["a", "b", ".", "**", "?"]), max_size=6),
    st.text(alphabet="ab.", max_size=8),
)
def test_it_agrees_with_fnmatch_where_both_have_the_word(parts, text):
    """Without a divider in play, `**` and `?` are fnmatch's `*` and `?`."""
    pattern = "".join(parts)
    theirs = pattern.replace("**", "*")
    mine = Glob(pattern, "/").matches(text)
    assert mine == fnmatch.fnmatchcase(text, theirs)


def test_a_pattern_made_to_be_slow_is_not():
    """Backtracking would take longer than the universe has."""
    assert not Glob("*a" * 200 + "b", ".").matches("a" * 2_000)


@pytest.mark.parametrize(
    ("wanted", "yes"),
    [
        (EventFilter(kind="exact", attributes={"type": "com.example.made"}), True),
        (EventFilter(kind="exact", attributes={"type": "com.example.made", "id": "2"}), False),
        (EventFilter(kind="exact", attributes={"tenant": "x", "specversion": "1.0"}), True),
        (EventFilter(kind="exact", attributes={"nothing": "x"}), False),
        (EventFilter(kind="prefix", attributes={"subject": "uploads/"}), True),
        (EventFilter(kind="suffix", attributes={"subject": ".pdf"}), True),
        (EventFilter(kind="suffix", attributes={"subject": ".txt"}), False),
    ],
)
def test_filters_of_attributes(wanted, yes):
    assert compile_filter(wanted)(EVENT) is yes
    assert compile_filter(EventFilter(kind="not", filters=(wanted,)))(EVENT) is not yes


def test_filters_combine():
    true = EventFilter(kind="prefix", attributes={"subject": "uploads/"})
    false = EventFilter(kind="exact", attributes={"id": "no"})
    for kind, filters, yes in (
        ("all", (true, true), True),
        ("all", (true, false), False),
        ("any", (false, true), True),
        ("any", (false,), False),
    ):
        assert compile_filter(EventFilter(kind=kind, filters=filters))(EVENT) is yes
    spec = TriggerSpec(patterns=("org.**", "com.**"), filter=true)
    assert compile_trigger(spec)(EVENT)
    assert not compile_trigger(spec)(an_event())
    assert not compile_trigger(TriggerSpec(patterns=("org.**",), filter=true))(EVENT)


def nested(depth: int) -> EventFilter:
    leaf = EventFilter(kind="exact", attributes={"id": "1"})
    for _ in range(depth):
        leaf = EventFilter(kind="not", filters=(leaf,))
    return leaf


@pytest.mark.parametrize(
    "spec",
    [
        TriggerSpec(patterns=()),
        TriggerSpec(patterns=("",)),
        TriggerSpec(patterns=("subject:",)),
        TriggerSpec(patterns=("x" * 513,)),
        TriggerSpec(patterns=("a",) * 65),
        TriggerSpec(patterns=("a\\",)),
        TriggerSpec(patterns=("a",), batch=-1),
        TriggerSpec(patterns=("a",), batch=1_001),
        TriggerSpec(patterns=("a",), batch=1, window_s=float("nan")),
        TriggerSpec(patterns=("a",), batch=1, window_s=3_601.0),
        TriggerSpec(patterns=("a",), window_s=1.0),
        *(
            TriggerSpec(patterns=("a",), filter=wanted)
            for wanted in (
                EventFilter(kind="sql"),
                EventFilter(kind="exact"),
                EventFilter(kind="exact", attributes={"Id": "1"}),
                EventFilter(kind="exact", attributes={"id": ""}),
                EventFilter(kind="all"),
                EventFilter(kind="not", filters=(nested(0), nested(0))),
                EventFilter(kind="any", filters=(nested(0),) * 200),
                nested(FILTER_DEPTH_MAX),
            )
        ),
    ],
)
def test_triggers_beyond_the_bounds_are_refused(spec):
    with pytest.raises(InvalidRequestError) as caught:
        check_trigger(spec)
    assert caught.value.code == "event.bad_pattern"
