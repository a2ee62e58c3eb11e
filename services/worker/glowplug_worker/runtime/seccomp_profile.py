"""The same system-call filter in the words of the OCI specification, for runtimes that take no program. Pure.

libseccomp can't say "none of these values" of an argument, only "equal under a mask": so what is not
allowed is split into masks that cover it exactly (`others`). Everything compares 32 bits, as the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Any, Final

from glowplug_worker.runtime import seccomp

_ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_BITS: Final = 32
_ALL: Final = 0xFFFF_FFFF

Pattern = tuple[int, int]  # mask, value


def oci_profile(machine: str) -> dict[str, Any]:
    """Return `linux.seccomp` of a container's specification."""
    plain = sorted(set(seccomp.numbers(machine)) - seccomp.BY_ARGUMENT)
    families = (*seccomp.FAMILIES, seccomp.AF_NETLINK)
    route = others((seccomp.NETLINK_ROUTE,))
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            _refuse(plain, errno.EPERM),
            _refuse(["clone3"], errno.ENOSYS),
            *_with(["clone"], errno.EPERM, _any_bit(seccomp.NAMESPACES)),
            *_with(["unshare"], errno.EPERM, _any_bit(seccomp.NAMESPACES | seccomp.NEWTIME)),
            *_with(["personality"], errno.EPERM, others(seccomp.PERSONALITIES)),
            *_with(["socketpair"], errno.EAFNOSUPPORT, others((seccomp.AF_UNIX,))),
            *_with(["socket"], errno.EAFNOSUPPORT, others(families)),
            *(
                _refuse(
                    ["socket"], errno.EAFNOSUPPORT, (0, (_ALL, seccomp.AF_NETLINK)), (2, pattern)
                )
                for pattern in route
            ),
            *_with(
                ["ioctl"],
                errno.EPERM,
                [(_ALL, seccomp.TIOCSTI), (_ALL, seccomp.TIOCLINUX)],
                argument=1,
            ),
        ],
    }


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


def _any_bit(flags: int) -> list[Pattern]:
    return [(1 << bit, 1 << bit) for bit in range(_BITS) if flags >> bit & 1]


def _with(
    names: list[str], error: int, patterns: Iterable[Pattern], argument: int = 0
) -> Iterator[dict[str, Any]]:
    for pattern in patterns:
        yield _refuse(names, error, (argument, pattern))


def _refuse(names: list[str], error: int, *where: tuple[int, Pattern]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error}
    if where:
        rule["args"] = [
            {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            for index, (mask, value) in where
        ]
    return rule
