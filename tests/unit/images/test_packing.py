"""Packs of small files: each content once, in few objects, and hardly another when a file changes."""

from __future__ import annotations

import hashlib

import pytest
from glowplug_contracts.packing import Pack, SmallFile, plan_packs
from hypothesis import given
from hypothesis import strategies as st

MIB = 1024 * 1024


def a_file(seed: int, size: int = 5000) -> SmallFile:
    return SmallFile(hashlib.sha256(b"%d %d" % (seed, size)).digest(), size)


FILES = st.lists(
    st.builds(a_file, st.integers(0, 300), st.integers(1, 32 * 1024)),
    max_size=120,
)


def named(packs: list[Pack]) -> list[Pack]:
    return [
        Pack(pack.members, hashlib.sha256(repr(pack.members).encode()).digest()) for pack in packs
    ]


@given(FILES, FILES)
def test_every_content_is_in_a_pack_once_within_its_bounds(
    files: list[SmallFile], others: list[SmallFile]
) -> None:
    for packs in (plan_packs(files), plan_packs(files, named(plan_packs(others + files[::2])))):
        new = [member for pack in packs if not pack.digest for member in pack.members]
        known = {member for pack in packs if pack.digest for member in pack.members}
        assert len(new) == len(set(new))
        assert set(new) | (known & set(files)) == set(files)
        assert not set(new) & known
        for pack in packs:
            assert 0 < pack.size <= MIB
            ends = [0]
            for member, block in pack.blocks():
                assert block * 4096 == ends[-1]
                ends.append(block * 4096 + member.size + -member.size % 4096)
            assert ends[-1] - 4096 < pack.size <= ends[-1]


def test_a_file_that_comes_or_goes_changes_one_pack_or_two() -> None:
    files = [a_file(seed) for seed in range(2000)]
    before = set(plan_packs(files))
    assert 40 < len(before) < 120
    for at in (0, 700, 1999):
        without = set(plan_packs(files[:at] + files[at + 1 :]))
        assert len(without - before) <= 2
        changed = set(plan_packs([*files[:at], a_file(9999), *files[at + 1 :]]))
        assert len(changed - before) <= 2


def test_what_a_known_image_has_is_not_stored_again() -> None:
    """T15: two files in a hundred are edited; what is new is what they hold, and little else."""
    files = [a_file(seed) for seed in range(1000)]
    known = named(plan_packs(files))
    edited = [a_file(seed + 5000) if seed % 50 == 0 else file for seed, file in enumerate(files)]
    packs = plan_packs(edited, known)
    new = sum(member.size for pack in packs if not pack.digest for member in pack.members)
    assert new == 20 * 5000
    assert {pack for pack in packs if pack.digest} <= set(known)


@pytest.mark.parametrize(("wanted", "used"), [(10, True), (9, False)])
def test_a_known_pack_is_used_if_half_of_it_is_wanted(wanted: int, used: bool) -> None:
    known = Pack(tuple(a_file(seed) for seed in range(20)), b"k" * 32)
    packs = plan_packs([a_file(seed) for seed in range(wanted)], [known])
    assert (known in packs) == used
