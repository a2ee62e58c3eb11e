"""The system calls that make a rooted container. Standard library only: `making.py` is run by itself."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

NEWNS: Final = 0x20000
NEWUTS: Final = 0x4000000
NEWIPC: Final = 0x8000000
NEWUSER: Final = 0x10000000
NEWPID: Final = 0x20000000
NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT_BIND: Final = 0x20 | 0x1000
MS_BIND: Final = 0x1000
MS_REC_SLAVE: Final = 0x4000 | 0x80000

_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442
_HERE: Final = -100  # AT_FDCWD
_EMPTY_PATH: Final = 0x1000
_FROM_EMPTY_PATH: Final = 0x4
_CLONE: Final = 1
_ATTR_RDONLY: Final = 0x1
_ATTR_NOSUID: Final = 0x2
_ATTR_NODEV: Final = 0x4
_ATTR_NOEXEC: Final = 0x8
_ATTR_IDMAP: Final = 0x100000
_DETACH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9
_FILTER_MODE: Final = 2
_INSTRUCTION_BYTES: Final = 8
_CAPABILITY_VERSION: Final = 0x20080522
CAPABILITIES_MAX: Final = 64

# What Docker gives, less raw sockets and devices: within the container's own user namespace.
KEPT: Final = {
    "chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7,
    "setpcap": 8, "net_bind_service": 10, "sys_chroot": 18, "audit_write": 29, "setfcap": 31,
}  # fmt: skip


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Raises: OSError, as all of these."""
    check(LIBC.unshare(flags), "new namespaces")


def setns(fd: int, kind: int) -> None:
    """Join a namespace."""
    check(LIBC.setns(fd, kind), "joining a namespace")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount something."""
    result = LIBC.mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    check(result, f"mounting {kind or 'something'} at {target}")


def view(source: str, *, writable: bool, device: bool = False) -> int:
    """Return a view of a file or directory of the host, mounted nowhere yet."""
    fd = _call(_OPEN_TREE, _HERE, os.fsencode(source), _CLONE | os.O_CLOEXEC)
    kind = _ATTR_NOEXEC if device else _ATTR_NODEV
    _set(fd, _ATTR_NOSUID | kind | (0 if writable else _ATTR_RDONLY), 0)
    return fd


def mapped_view(source: str, users: int) -> int:
    """Return a read-only view in which files belong to whom the user namespace maps their owners."""
    fd = _call(_OPEN_TREE, _HERE, os.fsencode(source), _CLONE | os.O_CLOEXEC)
    _set(fd, _ATTR_RDONLY | _ATTR_NODEV | _ATTR_IDMAP, users)
    return fd


def attach(fd: int, target: str) -> None:
    """Mount a view."""
    _call(_MOVE_MOUNT, fd, b"", _HERE, os.fsencode(target), _FROM_EMPTY_PATH)
    os.close(fd)


def enter(root: str, machine: str) -> None:
    """Make a directory the root, and let go of what was it."""
    os.chdir(root)
    _call(_PIVOT_ROOT[machine], b".", b".")
    check(LIBC.umount2(b".", _DETACH), "letting go of the host's root")
    os.chdir("/")


def end_with_parent() -> None:
    """Be killed when the process ends that made this one."""
    check(LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")


def drop_capabilities(machine: str) -> None:
    """Keep `KEPT` and nothing else, now and for whatever is executed later; gain nothing by executing."""
    kept = frozenset(KEPT.values())
    for number in range(CAPABILITIES_MAX):
        if number not in kept:
            LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # this kernel may not know so many
    low = sum(1 << number for number in kept)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, 0, 0, 0))
    _call(_CAPSET[machine], header, data)
    check(LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def filter_calls(code: bytes) -> None:
    """Install a filter of system calls."""
    program = _Program(len(code) // _INSTRUCTION_BYTES, code)
    check(
        LIBC.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0),
        "the filter of system calls",
    )


def check(result: int, what: str) -> int:
    """Return what a call of libc returned. Raises: OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _set(fd: int, attributes: int, users: int) -> None:
    values = (ctypes.c_uint64 * 4)(attributes, 0, 0, users)
    _call(_MOUNT_SETATTR, fd, b"", _EMPTY_PATH, ctypes.byref(values), 32)


def _call(number: int, *arguments: object) -> int:
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return check(LIBC.syscall(ctypes.c_long(number), *passed), f"system call {number}")
