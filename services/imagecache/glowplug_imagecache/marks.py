"""When objects of a bucket were wanted last, where nobody can set a time: marks beside them. Pure.

A bucket knows only when an object was written. That it was wanted later, or is leased, is an empty object below
MARKS with its path and a time in its name, so that two who mark the same can't undo each other: the latest one
counts. A mark of its own says that an object was given up; who wants it later marks it again, and that counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

MARKS: Final = "until"
_DIGITS: Final = 12
_GIVEN_UP: Final = "given-up-"
# What was given up was used in 1970: that is older than any grace, and still a time.
LONG_AGO: Final = 1.0


def mark(path: str, until: float) -> str:
    """Return the name of the mark of an object that is wanted now, or leased until then."""
    return f"{MARKS}/{path}/{math.ceil(until):0{_DIGITS}d}"


def mark_given_up(path: str, now: float) -> str:
    """Return the name of the mark of an object that is given up."""
    return f"{MARKS}/{path}/{_GIVEN_UP}{math.floor(now):0{_DIGITS}d}"


def marks_of(path: str) -> str:
    """Return the folder of an object's marks."""
    return f"{MARKS}/{path}"


def marked(name: str) -> tuple[str, float, bool] | None:
    """Return whose mark this is, its time, and whether it gives up; None for what is no mark."""
    folder, _, last = name.rpartition("/")
    digits = last.removeprefix(_GIVEN_UP)
    path = folder.removeprefix(f"{MARKS}/")
    if path == folder or len(digits) != _DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return path, float(digits), digits != last


def wanted_at(written_at: float, names: Iterable[str]) -> float:
    """Return when an object was wanted last, or until when it is leased, by its marks' names."""
    found = [one for one in map(marked, names) if one is not None]
    latest = max([at for _, at, gives_up in found if not gives_up], default=written_at)
    given_up = max([at for _, at, gives_up in found if gives_up], default=0.0)
    latest = max(latest, written_at)
    return LONG_AGO if given_up > latest else latest


def superseded(names: Iterable[str]) -> set[str]:
    """Return those of one object's marks that say nothing which a later one does not."""
    kinds: dict[bool, tuple[float, str]] = {}
    every = set()
    for name in names:
        one = marked(name)
        if one is not None:
            every.add(name)
            kinds[one[2]] = max(kinds.get(one[2], (0.0, "")), (one[1], name))
    return every - {name for _, name in kinds.values()}
