"""Which list of a start's reads is kept."""

from __future__ import annotations

from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import HOT_OBJECTS_MAX
from glowplug_worker.images.mounts.hot import merge

A, B, C = (Digest(letter * 64) for letter in "abc")


def test_what_is_known_stays_in_front_and_what_was_waited_for_follows() -> None:
    assert merge([], [B, A, B]) == [B, A]
    assert merge([A, B], [C, A]) == [A, B, C]


def test_nothing_new_is_nothing_to_keep() -> None:
    assert merge([A, B], []) is None
    assert merge([A, B], [B]) is None


def test_a_full_list_stays_as_it_is() -> None:
    full = [Digest(f"{number:064x}") for number in range(HOT_OBJECTS_MAX)]
    assert merge(full, [A]) is None
    assert merge(full[:-1], [A, B]) == [*full[:-1], A]
