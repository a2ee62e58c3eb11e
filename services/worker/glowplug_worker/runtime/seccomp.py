"""A profile of system calls as a BPF program, made here. Pure.

What the profile refuses (`seccomp_rules.py`) is told its error, all else passes. Calls of a foreign
architecture kill the process; those of x32 are unknown.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import Final

from glowplug_worker.runtime.seccomp_rules import Profile, Rule, number

# Audit architectures.
ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Calls from this number on came after libseccomp 2.5.4; they are the same everywhere.
NEWER_FROM: Final = 447
_X32_BIT: Final = 0x40000000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_RET: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_TRACE: Final = 0x7FF00000  # a tracer decides; without one the call is unknown
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000
_NR_AT: Final = 0
_ARCH_AT: Final = 4
_JUMP_MAX: Final = 255


def _argument_at(at: int) -> int:
    return 16 + 8 * at  # the low half; both architectures are little-endian


def program(
    profile: Profile, machine: str, known: Mapping[str, int], forks: tuple[int, ...] = ()
) -> bytes:
    """Return the filter for `bwrap --seccomp`, as an array of `struct sock_filter`.

    `machine` is what `platform.machine()` says, a key of `ARCHITECTURES`; `known` are the numbers of its
    calls. What this machine does not know is left out. A `clone` with exactly one of the flags `forks` is for
    a tracer to decide.
    """
    code = [
        _op(_LOAD, _ARCH_AT),
        _jump(_JEQ, ARCHITECTURES[machine], 1, 0),
        _ret(_KILL_PROCESS),
        _op(_LOAD, _NR_AT),
    ]
    if machine == "x86_64":
        code += [_jump(_JGE, _X32_BIT, 0, 1), _ret(_ERRNO | errno.ENOSYS)]
    if forks:
        body = [_op(_LOAD, _argument_at(0))]
        body += [_jump(_JEQ, flags, len(forks) - at, 0) for at, flags in enumerate(forks)]
        body += [_jump(_JEQ, 0, 1, 1), _ret(_TRACE), _op(_LOAD, _NR_AT)]
        code += [_jump(_JEQ, known["clone"], 0, len(body)), *body]
    for name, error in sorted(profile.refused().items()):
        if name in known:
            code += [_jump(_JEQ, known[name], 0, 1), _ret(_ERRNO | error)]
    for name, rules in sorted(profile.judged().items()):
        if name in known:
            code += _judge(known[name], rules)
    return b"".join([*code, _ret(_ALLOW)])


def newer_program(profile: Profile, machine: str, known: Mapping[str, int]) -> bytes:
    """Return a filter of the calls that libseccomp may not know by name yet, and that no runtime makes.

    For runtimes that take names: they silently leave out what they can't resolve.
    """
    code = [
        _op(_LOAD, _ARCH_AT),
        _jump(_JEQ, ARCHITECTURES[machine], 1, 0),
        _ret(_ALLOW),  # the runtime's own filter speaks of those
        _op(_LOAD, _NR_AT),
    ]
    for name, error in sorted(profile.refused().items()):
        if known.get(name, 0) >= NEWER_FROM:
            code += [_jump(_JEQ, known[name], 0, 1), _ret(_ERRNO | error)]
    return b"".join([*code, _ret(_ALLOW)])


def _judge(call: int, rules: tuple[Rule, ...]) -> list[bytes]:
    """Refuse a call by its arguments; it is decided either way."""
    body = [each for rule in rules for each in _rule(rule)]
    body.append(_ret(_ALLOW))
    return [_jump(_JEQ, call, 0, len(body)), *body]


def _rule(rule: Rule) -> list[bytes]:
    refuse = _ret(_ERRNO | getattr(errno, rule.error))
    code = [_op(_LOAD, _argument_at(rule.argument))]
    if rule.allow_only:
        values = [number(each) for each in rule.allow_only]
        code += [_jump(_JEQ, value, len(values) - at, 0) for at, value in enumerate(values)]
        code.append(refuse)
    elif rule.refuse:
        for each in rule.refuse:
            code += [_jump(_JEQ, number(each), 0, 1), refuse]
    else:
        code += [_jump(_JSET, number(rule.refuse_bits), 0, 1), refuse]
    if rule.where is None:
        return code
    return [
        _op(_LOAD, _argument_at(rule.where.argument)),
        _jump(_JEQ, number(rule.where.value), 0, len(code)),
        *code,
    ]


def _op(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    assert max(if_true, if_false) <= _JUMP_MAX, "a call has too many rules"  # noqa: S101
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _ret(value: int) -> bytes:
    return _op(_RET, value)
