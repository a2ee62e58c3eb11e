"""Reads the profile of system calls and their numbers from the files beside this one, and an operator's."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Final

import msgspec

from glowplug_worker.runtime import seccomp
from glowplug_worker.runtime.seccomp_rules import (
    Profile,
    ProfileError,
    check_profile,
    stricter,
)

_HERE: Final = Path(__file__).parent
OWN_FILE: Final = _HERE / "seccomp.json"
NUMBERS_FILE: Final = _HERE / "system_calls.json"
FILE_BYTES_MAX: Final = 256 * 1024
_DIGEST_BYTES: Final = 6


@functools.cache
def own_profile() -> Profile:
    """Return the platform's own profile."""
    profile = msgspec.json.decode(OWN_FILE.read_bytes(), type=Profile)
    check_profile(profile, _known())
    return profile


def load_profile(path: str) -> Profile:
    """Return the platform's own profile with the refusals of an operator's file added; "" = with none.

    Raises: ProfileError, in words for the operator.
    """
    if not path:
        return own_profile()
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ProfileError(f"{path} has more than {FILE_BYTES_MAX >> 10} KiB")
        more = msgspec.json.decode(data, type=Profile)
        both = stricter(own_profile(), more)
        check_profile(both, _known())
    except OSError as error:
        raise ProfileError(f"{path} can't be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is no profile of system calls: {error}") from error
    return both


@functools.cache
def numbers(machine: str) -> dict[str, int]:
    """Return the numbers of all system calls of a machine, by name."""
    tables = _tables()
    return {**tables[machine], **tables["both"]}


@functools.cache
def program(profile: Profile, machine: str, forks: tuple[int, ...] = ()) -> bytes:
    """Return the profile as a program for bubblewrap and crun; `forks` as in `seccomp.program`."""
    return seccomp.program(profile, machine, numbers(machine), forks)


def describe(profile: Profile, machine: str) -> str:
    """Return in words which profile is in force; the digest is that of what the kernel gets."""
    known = numbers(machine)
    refused = sum(call in known for call in profile.refused())
    judged = sum(call in known for call in profile.judged())
    digest = hashlib.blake2s(program(profile, machine), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{profile.name}: {refused} refused, {judged} judged by their arguments ({digest})"


@functools.cache
def _tables() -> dict[str, dict[str, int]]:
    return msgspec.json.decode(NUMBERS_FILE.read_bytes(), type=dict[str, dict[str, int]])


def _known() -> dict[str, int]:
    return {name: number for table in _tables().values() for name, number in table.items()}
