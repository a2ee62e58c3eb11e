"""Every attempt on every backend: held inside, the host as it was after each, and working without it.

The attempts are in `attempts/`, one file a family. `just security` makes them on all backends and prints
the table.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.security.attempts.inside import ATTEMPTS
from tests.security.attempts.kit import Attempt
from tests.security.ledger import Row
from tests.security.stage import Seen

# What a control says where this host has no such thing, or forbids it to everybody whom we can be.
HOST_LACKS = {
    "ENOENT", "ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENODEV", "ENXIO",
    "EOPNOTSUPP", "EPERM", "EACCES", "EROFS", "EBUSY", "ENOTTY", "empty", "they are zeros",
    "the host has no such address", "the host is too busy to show it",
    # An ordinary user without a sandbox may not either, or finds it there already.
    "refused", "EEXIST", "ENOMEM",
}  # fmt: skip


def control_of(attempt: Attempt, seen: Seen) -> tuple[bool, str]:
    """Return whether the control worked, and why not.

    Raises: AssertionError when it should have, or is broken.
    """
    if seen.outcome == "through":
        return True, ""
    assert seen.outcome == "held", f"the control is {seen.outcome}: {seen.words}"
    if attempt.control:
        return False, attempt.control
    assert seen.words in HOST_LACKS, f"nothing holds the control, and yet: {seen.words}"
    return False, f"not on this host, or not for this user: {seen.words}"


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda one: one.name)
def test_it_is_held_and_the_host_is_well(stage, free, ledger, attempt):
    place, played = stage
    seen = played.seen[attempt.name]
    held = seen.outcome == "held"
    declared = "" if not attempt.needs or attempt.needs in played.enforces else attempt.needs
    shown, why_not = control_of(attempt, free.seen[attempt.name])
    ledger.rows.append(
        Row(
            family=attempt.name.split(":")[0],
            name=attempt.name,
            place=str(place),
            contained=held and not seen.changes,
            declared="" if held else declared,
            shown=shown,
            why_not=why_not,
        )
    )
    assert seen.changes == [], "the host is not as it was"
    assert seen.outcome in ("held", "through"), f"{seen.outcome}: {seen.words}"
    assert held or declared, f"it got through: {seen.words}"


def test_nothing_of_a_stage_outlives_its_containers(stage):
    assert stage[1].left == []


def test_no_two_attempts_have_one_name():
    assert [
        name for name, count in Counter(one.name for one in ATTEMPTS).items() if count > 1
    ] == []


def test_there_are_enough_attempts():
    assert len(ATTEMPTS) >= 150


def test_without_a_sandbox_most_attempts_work(free):
    if os.geteuid() != 0:
        pytest.skip("for an ordinary user the host itself holds most of them")
    through = sum(seen.outcome == "through" for seen in free.seen.values())
    assert through >= 150, "the controls show too little here"
