"""The system calls that code in a container may not make, as a BPF program made here. Pure.

A deny-list: what can reach the kernel's wider surface or another process is refused with EPERM, while
ordinary programs never notice. `clone3` is ENOSYS, because a filter can't look into its argument block
and libc falls back to `clone`. Calls of a foreign architecture kill the process.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

# (audit architecture, {name: number}); numbers from 424 on are the same everywhere.
_X86_64: Final = {
    "ioctl": 16,
    "socket": 41,
    "socketpair": 53,
    "clone": 56,
    "ptrace": 101,
    "syslog": 103,
    "uselib": 134,
    "personality": 135,
    "vhangup": 153,
    "modify_ldt": 154,
    "pivot_root": 155,
    "_sysctl": 156,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "migrate_pages": 256,
    "unshare": 272,
    "vmsplice": 278,
    "move_pages": 279,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
}
_AARCH64: Final = {
    "lookup_dcookie": 18,
    "ioctl": 29,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "nfsservctl": 42,
    "chroot": 51,
    "vhangup": 58,
    "quotactl": 60,
    "vmsplice": 75,
    "acct": 89,
    "personality": 92,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "clock_settime": 112,
    "syslog": 116,
    "ptrace": 117,
    "reboot": 142,
    "sethostname": 161,
    "setdomainname": 162,
    "settimeofday": 170,
    "adjtimex": 171,
    "socket": 198,
    "socketpair": 199,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "clone": 220,
    "swapon": 224,
    "swapoff": 225,
    "migrate_pages": 238,
    "move_pages": 239,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "clock_adjtime": 266,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "userfaultfd": 282,
    "kexec_file_load": 294,
}
_EVERYWHERE: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "statmount": 457,
    "listmount": 458,
    "open_tree_attr": 467,
}
# Came after libseccomp 2.5.4.
_NEWER: Final = ("memfd_secret", "process_mrelease", "statmount", "listmount", "open_tree_attr")
ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_TABLES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}
_X32_BIT: Final = 0x40000000

# Looked at by argument, not refused outright.
BY_ARGUMENT: Final = frozenset(
    {"ioctl", "clone", "clone3", "unshare", "socket", "socketpair", "personality"}
)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
NAMESPACES: Final = 0x7E020000
# CLONE_NEWTIME; in clone() that bit belongs to the exit signal.
NEWTIME: Final = 0x80
# Sockets: UNIX, INET, INET6, and of NETLINK only the routes' (libc lists interfaces by it). The others
# reach kernel code that nobody needs, and are told what a kernel without them says.
AF_UNIX: Final = 1
FAMILIES: Final = (AF_UNIX, 2, 10)
AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
# Linux, its 32-bit address space, an old version number, both, and asking which it is. No other: they
# switch protections of memory off.
PERSONALITIES: Final = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
TIOCSTI: Final = 0x5412  # types into the terminal that started us
TIOCLINUX: Final = 0x541C

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_RET: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000
_NR_AT: Final = 0
_ARCH_AT: Final = 4


def _argument_at(number: int) -> int:
    return 16 + 8 * number  # the low half; both architectures are little-endian


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers of all calls that the filter looks at, by name."""
    return {**_TABLES[machine], **_EVERYWHERE}


def program(machine: str) -> bytes:
    """Return the filter for `bwrap --seccomp`, as an array of `struct sock_filter`.

    `machine` is what `platform.machine()` says, a key of `ARCHITECTURES`.
    """
    known = numbers(machine)
    deny = _ret(_ERRNO | errno.EPERM)
    code = [
        _op(_LOAD, _ARCH_AT),
        _jump(_JEQ, ARCHITECTURES[machine], 1, 0),
        _ret(_KILL_PROCESS),
        _op(_LOAD, _NR_AT),
    ]
    if machine == "x86_64":
        code += [_jump(_JGE, _X32_BIT, 0, 1), _ret(_ERRNO | errno.ENOSYS)]
    code += [_jump(_JEQ, known["clone3"], 0, 1), _ret(_ERRNO | errno.ENOSYS)]
    for name, number in sorted(known.items()):
        if name not in BY_ARGUMENT:
            code += [_jump(_JEQ, number, 0, 1), deny]
    code += _deny_flags(known["clone"], NAMESPACES)
    code += _deny_flags(known["unshare"], NAMESPACES | NEWTIME)
    code += _allow_only(known["personality"], PERSONALITIES, errno.EPERM)
    code += _allow_only(known["socketpair"], (AF_UNIX,), errno.EAFNOSUPPORT)
    code += _allow_families(known["socket"])
    code += [
        _jump(_JEQ, known["ioctl"], 0, 4),
        _op(_LOAD, _argument_at(1)),
        _jump(_JEQ, TIOCSTI, 1, 0),
        _jump(_JEQ, TIOCLINUX, 0, 1),
        deny,
        _ret(_ALLOW),
    ]
    return b"".join(code)


def newer_program(machine: str) -> bytes:
    """Return a filter of the calls that libseccomp may not know by name yet, and that no runtime makes.

    For runtimes that take names: they silently leave out what they can't resolve.
    """
    code = [
        _op(_LOAD, _ARCH_AT),
        _jump(_JEQ, ARCHITECTURES[machine], 1, 0),
        _ret(_ALLOW),  # the runtime's own filter speaks of those
        _op(_LOAD, _NR_AT),
    ]
    for name in _NEWER:
        code += [_jump(_JEQ, _EVERYWHERE[name], 0, 1), _ret(_ERRNO | errno.EPERM)]
    return b"".join([*code, _ret(_ALLOW)])


def _deny_flags(number: int, flags: int) -> list[bytes]:
    """Refuse a call whose first argument has any of `flags`; the call is decided either way."""
    return [
        _jump(_JEQ, number, 0, 4),
        _op(_LOAD, _argument_at(0)),
        _jump(_JSET, flags, 0, 1),
        _ret(_ERRNO | errno.EPERM),
        _ret(_ALLOW),
    ]


def _allow_only(number: int, values: tuple[int, ...], error: int) -> list[bytes]:
    """Refuse a call whose first argument is none of `values`; the call is decided either way."""
    count = len(values)
    return [
        _jump(_JEQ, number, 0, count + 3),
        _op(_LOAD, _argument_at(0)),
        *(_jump(_JEQ, value, count - at, 0) for at, value in enumerate(values)),
        _ret(_ERRNO | error),
        _ret(_ALLOW),
    ]


def _allow_families(number: int) -> list[bytes]:
    """Refuse sockets of all families but a few, and of netlink all protocols but one."""
    count = len(FAMILIES)
    return [
        _jump(_JEQ, number, 0, count + 6),
        _op(_LOAD, _argument_at(0)),
        _jump(_JEQ, AF_NETLINK, 0, 2),
        _op(_LOAD, _argument_at(2)),
        _jump(_JEQ, NETLINK_ROUTE, count + 1, count),
        *(_jump(_JEQ, family, count - at, 0) for at, family in enumerate(FAMILIES)),
        _ret(_ERRNO | errno.EAFNOSUPPORT),
        _ret(_ALLOW),
    ]


def _op(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _ret(value: int) -> bytes:
    return _op(_RET, value)
