"""Gives every forked container random numbers of its own.

Python's own `random` functions seed themselves anew after a fork. What does not: numpy's and torch's global
generators, and generators that the user's module made at import. A plain start would have seeded those from
the system, unless a seed was named; a fork can't tell the two apart, so all of them are seeded anew.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SEED_BITS = 32


def find() -> list[Any]:
    """Return the generators that live now; looking for them takes as long as there are objects."""
    kinds = tuple(_kinds())
    if not kinds:
        return []
    import gc  # noqa: PLC0415 - with the template's own

    return [each for each in gc.get_objects() if isinstance(each, kinds)]


def _kinds() -> list[type]:
    kinds: list[type] = []
    if random := sys.modules.get("random"):
        kinds.append(random.Random)
    if numpy := sys.modules.get("numpy.random"):
        kinds += [numpy.Generator, numpy.RandomState]
    if torch := sys.modules.get("torch"):
        kinds.append(torch.Generator)
    return kinds


def reseed(found: list[Any]) -> None:
    """Seed everything from the system."""
    modules = sys.modules
    for generator in found:
        _seed_one(generator)
    if random := modules.get("random"):
        random.seed()
    if numpy := modules.get("numpy.random"):
        numpy.seed(_number())
    if torch := modules.get("torch"):
        torch.manual_seed(_number())
    if ssl := modules.get("ssl"):
        ssl.RAND_add(os.urandom(SEED_BITS), 0.0)


def _seed_one(generator: Any) -> None:
    if hasattr(generator, "manual_seed"):  # torch
        generator.manual_seed(_number())
    elif hasattr(generator, "bit_generator"):  # numpy: the new state of a new one of the same kind
        bits = generator.bit_generator
        bits.state = type(bits)().state
    else:
        generator.seed(_number())


def _number() -> int:
    return int.from_bytes(os.urandom(SEED_BITS // 8), "little")
