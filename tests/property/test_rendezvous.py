"""Rendezvous hashing: everybody finds the same order, little moves, and nobody has much more than others."""

from __future__ import annotations

from collections import Counter

from glowplug_contracts.rendezvous import ranked
from hypothesis import given
from hypothesis import strategies as st

NODES = st.lists(st.text("ab-1", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)
NAMES = st.text(max_size=20)


@given(NAMES, NODES, st.randoms())
def test_the_order_is_the_names_and_no_one_elses(name: str, nodes: list[str], chance) -> None:
    found = ranked(name, nodes)
    assert sorted(found) == sorted(nodes)
    shuffled = [*nodes, *nodes]
    chance.shuffle(shuffled)
    assert ranked(name, shuffled) == found


@given(NAMES, NODES, st.integers(0, 5))
def test_one_that_goes_moves_only_what_it_had(name: str, nodes: list[str], which: int) -> None:
    gone = nodes[which % len(nodes)]
    left = [node for node in nodes if node != gone]
    assert ranked(name, left) == [node for node in ranked(name, nodes) if node != gone]


@given(st.integers(2, 6), st.integers(1, 3))
def test_everybody_has_about_the_same(count: int, copies: int) -> None:
    nodes = [f"imagecache-{number}" for number in range(count)]
    has = Counter(node for name in range(1500) for node in ranked(str(name), nodes)[:copies])
    fair = 1500 * min(copies, count) / count
    assert all(0.7 * fair < has[node] < 1.3 * fair or copies >= count for node in nodes)
