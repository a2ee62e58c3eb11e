"""New namespaces of every kind by every call, and those of others."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from .kit import GIVEN, LIBC, Family, Held, called, in_child, syscall

FAMILY = Family("namespaces")

_KINDS = {
    "user": 0x10000000,
    "mount": 0x20000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x8000000,
    "uts": 0x4000000,
    "cgroup": 0x2000000,
    "time": 0x80,
}


def _unshare(flags: int) -> None:
    in_child(lambda: called(LIBC.unshare(flags)))


def _clone(flags: int) -> None:
    pid = syscall(56, 220, flags | signal.SIGCHLD, None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _clone3(flags: int) -> None:
    arguments = ctypes.create_string_buffer(struct.pack("=11Q", flags, 0, 0, 0, 17, *[0] * 6))
    pid = syscall(435, 435, arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


for _kind, _flag in _KINDS.items():
    FAMILY.add(f"unshare: {_kind}", lambda flag=_flag: _unshare(flag), 16)
    if _kind != "time":
        FAMILY.add(f"clone: {_kind}", lambda flag=_flag: _clone(flag), 18)
    FAMILY.add(f"clone3: {_kind}", lambda flag=_flag: _clone3(flag), 18)


@FAMILY("unshare: all at once", 16)
def _() -> None:
    _unshare(0x7E020000)


@FAMILY("clone: flags in the high half of the argument", 18)
def _() -> None:
    # A filter that compares 64 bits, or 32 of the wrong half, lets this pass; the kernel takes the low.
    _clone(0x10000000 | 1 << 40)


@FAMILY("a user namespace, and a mount in it", 16, 7)
def _() -> None:
    def act() -> None:
        called(LIBC.unshare(0x10020000))
        called(LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None))

    in_child(act)


def _first() -> int:
    """Process 1 of the container; of the host one that is the test's own."""
    return 1 if GIVEN["sandboxed"] else int(GIVEN["victim"])


def _enter(path: str, kind: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY)
    in_child(lambda: called(LIBC.setns(fd, kind)))


for _name in ("uts", "mnt", "net", "ipc", "pid", "cgroup"):
    FAMILY.add(f"setns: its own {_name}", lambda name=_name: _enter(f"/proc/self/ns/{name}"), 17)
    FAMILY.add(
        f"setns: {_name} of process 1",
        lambda name=_name: _enter(f"/proc/{_first()}/ns/{name}"),
        17,
    )


@FAMILY("setns: by a pidfd of process 1", 17)
def _() -> None:
    fd = os.pidfd_open(_first())
    in_child(lambda: called(LIBC.setns(fd, 0x4000000)))


@FAMILY("setns: of a process outside", 17)
def _() -> None:
    _enter(f"/proc/{GIVEN['victim']}/ns/uts")


@FAMILY(
    "the parent namespace's descriptor (NS_GET_PARENT)",
    17,
    control="the first user namespace has no parent to show",
)
def _() -> None:
    fd = os.open("/proc/self/ns/user", os.O_RDONLY)
    found = called(LIBC.ioctl(fd, 0xB702)) if GIVEN["sandboxed"] else fd
    os.close(found)


@FAMILY("the namespaces are the host's")
def _() -> list[str]:
    same = [
        name
        for name in ("user", "mnt", "pid", "ipc", "uts")
        if os.readlink(f"/proc/self/ns/{name}") == GIVEN["namespaces"][name]
    ]
    if not same:
        raise Held("each is its own")
    return same


@FAMILY("the network namespace is the host's", needs="network")
def _() -> None:
    if os.readlink("/proc/self/ns/net") != GIVEN["namespaces"]["net"]:
        raise Held("it is its own")
