"""What a profile of system calls says: refused by name, or judged by an argument. Pure.

The profile is data (`seccomp.json`), with the reason for each group beside it. Both filters are made from it:
bubblewrap's program (`seccomp.py`) and the words of the OCI specification (`seccomp_profile.py`). Whatever is
added to a profile can only refuse more.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

# What a refused call may be told; anything else would surprise libc.
Told = Literal["EPERM", "ENOSYS", "EACCES", "EAFNOSUPPORT", "EINVAL"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=40, pattern="^[a-z0-9_]+$")]
Text = Annotated[str, msgspec.Meta(max_length=400)]
Number = Annotated[str, msgspec.Meta(pattern="^(0x[0-9a-f]{1,8}|[0-9]{1,10})$")]
ArgumentAt = Annotated[int, msgspec.Meta(ge=0, le=5)]
GROUPS_MAX: Final = 64
CALLS_MAX: Final = 512
RULES_MAX: Final = 32
VALUES_MAX: Final = 32
_U32: Final = 0xFFFF_FFFF


class ProfileError(ValueError):
    """A profile that can't be taken as it is, in words for whoever wrote it."""


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls that are refused whatever their arguments, and why."""

    name: Annotated[str, msgspec.Meta(max_length=60)]
    why: Text
    error: Told = "EPERM"
    calls: Annotated[tuple[Name, ...], msgspec.Meta(max_length=CALLS_MAX)]


class Where(
    msgspec.Struct, frozen=True, kw_only=True, rename={"value": "is"}, forbid_unknown_fields=True
):
    """A rule looks at calls with this value in another argument only."""

    argument: ArgumentAt
    value: Number


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that is refused by the low 32 bits of one argument; one of the three ways is given.

    Attributes:
        refuse: refused with one of these values.
        refuse_bits: refused with any of these bits.
        allow_only: refused with any other value.
    """

    call: Name
    why: Text
    error: Told = "EPERM"
    argument: ArgumentAt
    refuse: Annotated[tuple[Number, ...], msgspec.Meta(max_length=VALUES_MAX)] = ()
    refuse_bits: Number = "0"
    allow_only: Annotated[tuple[Number, ...], msgspec.Meta(max_length=VALUES_MAX)] = ()
    where: Where | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A list of refusals; all else passes."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=60, pattern=r"^[\w .:+-]+$")]
    about: Text = ""
    groups: Annotated[tuple[Group, ...], msgspec.Meta(max_length=GROUPS_MAX)] = ()
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=RULES_MAX)] = ()

    def refused(self) -> dict[str, int]:
        """Return the calls that are refused outright, with what they are told: by the first who says so."""
        found: dict[str, int] = {}
        for group in self.groups:
            for call in group.calls:
                found.setdefault(call, getattr(errno, group.error))
        return found

    def judged(self) -> dict[str, tuple[Rule, ...]]:
        """Return the calls that are judged by their arguments, with what they are judged by."""
        refused = self.refused()
        found: dict[str, tuple[Rule, ...]] = {}
        for rule in self.rules:
            if rule.call not in refused:
                found[rule.call] = (*found.get(rule.call, ()), rule)
        return found


def number(text: str) -> int:
    """Return the number that is written in a profile, as the kernel compares it."""
    return int(text, 0) & _U32


def check_profile(profile: Profile, known: Mapping[str, object]) -> None:
    """Raise ProfileError unless every call is `known` somewhere and every rule says one thing."""
    unknown = sorted({*profile.refused(), *(rule.call for rule in profile.rules)} - set(known))
    if unknown:
        raise ProfileError(f"there is no system call named {', '.join(unknown)}")
    for rule in profile.rules:
        ways = [bool(rule.refuse), number(rule.refuse_bits) != 0, bool(rule.allow_only)]
        if sum(ways) != 1:
            raise ProfileError(
                f"a rule for {rule.call} needs one of refuse, refuse_bits and allow_only"
            )
    for call, rules in profile.judged().items():
        if len({rule.error for rule in rules}) > 1:
            raise ProfileError(f"the rules for {call} tell it different errors")


def stricter(profile: Profile, more: Profile) -> Profile:
    """Return a profile that refuses what either does."""
    return msgspec.structs.replace(
        profile,
        name=f"{profile.name} + {more.name}",
        groups=(*profile.groups, *more.groups),
        rules=(*profile.rules, *more.rules),
    )
