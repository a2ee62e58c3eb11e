"""Gives every forked container random numbers of its own.

Python's own `random` functions seed themselves anew after a fork. What does not: numpy's and torch's global
generators, and generators that the user's module made at import. A plain start would have seeded those from
the system, unless a seed was named; a fork can't tell the two apart, so all of them are seeded anew.

What was drawn at import is as it was drawn, and so is what was made for drawing later without being a generator:
a `SeedSequence`, a key of JAX.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

WORD_BYTES = 4
WORDS = 8


class UnseedableError(Exception):
    """There is a generator that nobody here knows how to seed."""


def find() -> list[Any]:
    """Return the generators that live now; looking for them takes as long as there are objects.

    Raises: UnseedableError.
    """
    kinds = tuple(_kinds())
    if not kinds:
        return []
    # By type, never isinstance: that asks the objects, and lazy ones would wake up.
    known: dict[type, bool] = {}
    found: dict[int, Any] = {}
    for each in _objects():
        kind = type(each)
        if kind not in known:
            known[kind] = issubclass(kind, kinds)
        if known[kind]:
            found[id(each)] = each
    for each in found.values():
        _check(each)
    return list(found.values())


def _objects() -> Iterator[Any]:
    """Yield what the collector knows, and with torch what that refers to: its generators are not tracked."""
    import gc  # noqa: PLC0415 - with the template's own

    for each in gc.get_objects():
        yield each
        if "torch" in sys.modules:
            yield from gc.get_referents(each)


def _kinds() -> list[type]:
    kinds: list[type] = []
    if random := sys.modules.get("random"):
        kinds.append(random.Random)
    if numpy := sys.modules.get("numpy.random"):
        kinds += [numpy.BitGenerator, numpy.RandomState]
    if torch := sys.modules.get("torch"):
        kinds.append(torch.Generator)
    return kinds


def _check(generator: Any) -> None:
    numpy = sys.modules.get("numpy.random")
    if numpy is None or not isinstance(generator, numpy.BitGenerator):
        return
    kind = type(generator)
    if not kind.__module__.startswith("numpy.random."):
        raise UnseedableError(
            f"it made a {kind.__module__}.{kind.__qualname__}, random numbers of which would be the same "
            "in every container"
        )


def reseed(found: list[Any]) -> None:
    """Seed everything from the system."""
    modules = sys.modules
    for generator in found:
        _seed_one(generator)
    if random := modules.get("random"):
        random.seed()
    if numpy := modules.get("numpy.random"):
        numpy.seed(_words())
    if torch := modules.get("torch"):
        torch.manual_seed(_number())
    if ssl := modules.get("ssl"):
        ssl.RAND_add(os.urandom(WORDS * WORD_BYTES), 0.0)


def _seed_one(generator: Any) -> None:
    if hasattr(generator, "manual_seed"):  # torch
        generator.manual_seed(_number())
    elif hasattr(
        generator, "random_raw"
    ):  # numpy's source of bits, of any Generator; its spawn()'s, too
        type(generator).__init__(generator)
    elif hasattr(
        generator, "get_state"
    ):  # numpy's RandomState; of other bits than these it is seeded already
        if generator.get_state(legacy=False)["bit_generator"] == "MT19937":
            generator.seed(_words())
    else:
        generator.seed()


def _words() -> list[int]:
    return [int.from_bytes(os.urandom(WORD_BYTES), "little") for _ in range(WORDS)]


def _number() -> int:
    return int.from_bytes(os.urandom(2 * WORD_BYTES), "little") >> 1
