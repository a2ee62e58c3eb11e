"""Which of an index's images is for a machine: operating system, architecture and variant. Pure.

The rules are containerd's: a variant that is not named is the usual one (arm64 v8, arm v7, amd64 v1), and
a machine also runs the variants below its own, the highest first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from glowplug_contracts.errors import InvalidRequestError

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armv7l": "arm",
    "i686": "386",
    "i386": "386",
}
_USUAL: Final = {"arm64": 8, "arm": 7, "amd64": 1}
_WORD: Final = re.compile(r"[a-z0-9_.-]{1,32}\Z")


class Platform(msgspec.Struct, frozen=True):
    """A kind of machine, as indexes name it."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def parse_platform(text: str) -> Platform:
    """Return the platform in "linux/arm64/v8"; "amd64" alone is on linux.

    Raises: InvalidRequestError (registry.bad_reference).
    """
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) not in (2, 3) or not all(map(_WORD.match, parts)):
        raise InvalidRequestError(
            "registry.bad_reference",
            f"{text[:100]!r} is no platform; write it like 'linux/amd64' or 'linux/arm/v7'",
        )
    return Platform(parts[0], _ARCHITECTURES.get(parts[1], parts[1]), "".join(parts[2:]))


def closeness(offered: Platform, wanted: Platform) -> int | None:
    """Return how well an image fits a machine, higher is better, or None if it can't run there."""
    if offered.os != wanted.os:
        return None
    architecture = _ARCHITECTURES.get(offered.architecture, offered.architecture)
    if architecture != wanted.architecture:
        return None
    here, there = _level(architecture, wanted.variant), _level(architecture, offered.variant)
    if here is None or there is None:
        return 0 if offered.variant == wanted.variant else None
    return there if there <= here else None


def choose_platform(offered: Sequence[Platform | None], wanted: Platform) -> int:
    """Return the position of the image for `wanted`; the first of equally good ones.

    One image alone that does not say its platform is chosen: its configuration says it later.

    Raises: InvalidRequestError (registry.no_platform) that lists what there is.
    """
    fits = [
        (-near, at)
        for at, one in enumerate(offered)
        if one is not None and (near := closeness(one, wanted)) is not None
    ]
    if fits:
        return min(fits)[1]
    if len(offered) == 1 and offered[0] is None:
        return 0
    there_is = sorted({str(one) for one in offered if one is not None and one.os != "unknown"})
    raise no_platform(wanted, ", ".join(there_is[:20]) or "none")


def no_platform(wanted: Platform, there_is: str) -> InvalidRequestError:
    """Return the refusal of an image that no machine of ours can run."""
    return InvalidRequestError(
        "registry.no_platform", f"the image is not built for {wanted}; it is there for: {there_is}"
    )


def _level(architecture: str, variant: str) -> int | None:
    """Return a variant's number ("v7" is 7); None where variants have no order."""
    usual = _USUAL.get(architecture)
    if usual is None:
        return None
    if not variant:
        return usual
    number = variant.removeprefix("v")
    return int(number) if number.isdecimal() and number.isascii() else None
