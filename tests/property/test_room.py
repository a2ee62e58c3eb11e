"""Which trees leave a worker's disk: never a held one, no more than it takes, the longest unused first."""

from __future__ import annotations

from glowplug_worker.images.room import FREE_BYTES_MIN, Stay, bound_of, leaving
from hypothesis import given
from hypothesis import strategies as st

STAYS = st.lists(
    st.builds(
        Stay,
        name=st.text("abcdef", min_size=1, max_size=4),
        size=st.integers(0, 100),
        used_at=st.integers(0, 10).map(float),
        held=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda stay: stay.name,
)


@given(STAYS, st.integers(0, 400))
def test_what_leaves_is_unheld_and_oldest_and_just_enough(stays: list[Stay], most: int) -> None:
    by_name = {each.name: each for each in stays}
    gone = [by_name[name] for name in leaving(stays, most)]
    stay = [each for each in stays if each not in gone]
    assert not any(each.held for each in gone)
    left = sum(each.size for each in stay)
    assert left <= most or all(each.held for each in stay)
    if gone:
        assert left + gone[-1].size > most, "the last one had to go"
        oldest_that_stays = min((e.used_at for e in stay if not e.held), default=float("inf"))
        assert max(each.used_at for each in gone) <= oldest_that_stays


@given(*[st.integers(0, 1 << 50)] * 4)
def test_the_bound_is_the_operators_or_half_and_keeps_the_disk_free(
    wanted: int, taken: int, free: int, total: int
) -> None:
    bound = bound_of(wanted, taken, free, total)
    assert 0 <= bound <= (wanted or total // 2)
    would_be_free = free + taken - bound
    assert would_be_free >= FREE_BYTES_MIN or bound == 0
