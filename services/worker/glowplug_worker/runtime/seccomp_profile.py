"""A profile of system calls in the words of the OCI specification, for runtimes that take no program. Pure.

libseccomp can't say "none of these values" of an argument, only "equal under a mask": so what is not
allowed is split into masks that cover it exactly (`others`). Everything compares 32 bits, as the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

from glowplug_worker.runtime.seccomp_rules import Profile, Rule, number

_ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_BITS: Final = 32
_ALL: Final = 0xFFFF_FFFF

Pattern = tuple[int, int]  # mask, value


def oci_profile(profile: Profile, machine: str, known: Container[str]) -> dict[str, Any]:
    """Return `linux.seccomp` of a container's specification; `known` are the names of the machine's calls."""
    outright: dict[int, list[str]] = {}
    for name, error in sorted(profile.refused().items()):
        if name in known:
            outright.setdefault(error, []).append(name)
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            *(_refuse(names, error) for error, names in outright.items()),
            *(
                _refuse([name], getattr(errno, rule.error), *_where(rule), (rule.argument, pattern))
                for name, rules in profile.judged().items()
                if name in known
                for rule in rules
                for pattern in _patterns(rule)
            ),
        ],
    }


def _where(rule: Rule) -> Iterator[tuple[int, Pattern]]:
    if rule.where is not None:
        yield rule.where.argument, (_ALL, number(rule.where.value))


def _patterns(rule: Rule) -> list[Pattern]:
    if rule.allow_only:
        return others(map(number, rule.allow_only))
    if rule.refuse:
        return [(_ALL, number(each)) for each in rule.refuse]
    bits = number(rule.refuse_bits)
    return [(1 << bit, 1 << bit) for bit in range(_BITS) if bits >> bit & 1]


def others(values: Iterable[int]) -> list[Pattern]:
    """Return (mask, value) pairs that match every 32-bit number but these, each exactly once."""
    return list(_split(frozenset(values), 0, _BITS))


def _split(values: frozenset[int], prefix: int, left: int) -> Iterator[Pattern]:
    """Cover the numbers with a prefix, of which `left` low bits are free, but not `values`."""
    if not values:
        yield _ALL << left & _ALL, prefix
        return
    if left == 0:
        return
    bit = 1 << (left - 1)
    yield from _split(frozenset(v for v in values if not v & bit), prefix, left - 1)
    yield from _split(frozenset(v for v in values if v & bit), prefix | bit, left - 1)


def _refuse(names: list[str], error: int, *where: tuple[int, Pattern]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error}
    if where:
        rule["args"] = [
            {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            for index, (mask, value) in where
        ]
    return rule
