"""Other processes: traced, read, signalled, their files taken, their memory of past sessions found."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import signal
import socket
import stat
import struct
import termios
from collections.abc import Iterator

from .kit import GIVEN, LIBC, Family, Held, called, in_child, opens, syscall

FAMILY = Family("processes")


@contextlib.contextmanager
def _sleeping() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _ptrace(request: int, pid: int) -> None:
    called(LIBC.ptrace(request, pid, None, None))


@FAMILY("ptrace: seize a child", 19)
def _() -> None:
    with _sleeping() as pid:
        _ptrace(0x4206, pid)


@FAMILY("ptrace: attach to a child", 19)
def _() -> None:
    with _sleeping() as pid:
        _ptrace(16, pid)


@FAMILY("ptrace: be traced", 19)
def _() -> None:
    in_child(lambda: _ptrace(0, 0))


@FAMILY("ptrace: seize process 1", 19, control="process 1 of the host is not the test's to stop")
def _() -> None:
    if not GIVEN["sandboxed"]:
        raise Held("not tried")
    _ptrace(0x4206, 1)


@FAMILY("ptrace: seize a process outside", 19)
def _() -> None:
    _ptrace(0x4206, GIVEN["victim"])


def _vector(size: int = 8) -> tuple[object, object]:
    buffer = ctypes.create_string_buffer(size)
    return struct.pack("=QQ", ctypes.addressof(buffer), size), buffer


@FAMILY("process_vm_readv: a child", 20)
def _() -> None:
    vector, _kept = _vector()
    with _sleeping() as pid:
        syscall(310, 270, pid, vector, 1, vector, 1, 0)


@FAMILY("process_vm_writev: a child", 20)
def _() -> None:
    vector, _kept = _vector()
    with _sleeping() as pid:
        syscall(311, 271, pid, vector, 1, vector, 1, 0)


@FAMILY("process_vm_readv: process 1", 20)
def _() -> None:
    vector, _kept = _vector()
    try:
        number = 1 if GIVEN["sandboxed"] else GIVEN["victim"]
        syscall(310, 270, number, vector, 1, vector, 1, 0)
    except OSError as error:
        if error.errno != 14:  # it was allowed, and the address is not mapped there
            raise


@FAMILY("pidfd_getfd: a child's descriptor", 20)
def _() -> None:
    with _sleeping() as pid:
        fd = os.pidfd_open(pid)
        os.close(syscall(438, 438, fd, 0, 0))


@FAMILY("kcmp: compare with a child", 21)
def _() -> None:
    with _sleeping() as pid:
        syscall(312, 272, os.getpid(), pid, 1, 0, 0)


@FAMILY("see a process outside")
def _() -> None:
    os.stat(f"/proc/{GIVEN['victim']}/stat")


@FAMILY("signal a process outside")
def _() -> None:
    os.kill(GIVEN["victim"], 0)


@FAMILY("signal the worker")
def _() -> None:
    os.kill(GIVEN["worker"], 0)


@FAMILY("a pidfd of the worker", 56)
def _() -> None:
    os.close(os.pidfd_open(GIVEN["worker"]))


@FAMILY("signal its group and session from outside")
def _() -> None:
    os.killpg(os.getpgid(GIVEN["victim"]), 0)


@FAMILY("see more processes than its own")
def _() -> list[int]:
    seen = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    if len(seen) <= 6:
        raise Held(f"{len(seen)} of its own")
    return sorted(seen)[-5:]


@FAMILY("process 1's memory, if process 1 may do more than we", 119)
def _() -> None:
    # Process 1 may be a part of the runtime; what runs by our rights may be ours, and no more than that.
    number = 1 if GIVEN["sandboxed"] else GIVEN["victim"]
    opens(f"/proc/{number}/mem", os.O_RDWR)
    said = []
    for path in (f"/proc/{number}/status", "/proc/self/status"):
        with open(path) as file:
            status = dict(line.split(":", 1) for line in file if ":" in line)
        said.append([status[name] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")])
    if GIVEN["sandboxed"] and said[0] == said[1]:
        raise Held("it may do no more than we")


for _name in ("root", "cwd", "fd", "map_files"):

    def _link(name: str = _name) -> None:
        top = f"/proc/{1 if GIVEN['sandboxed'] else GIVEN['victim']}/{name}"
        mounts = {line.split()[2] for line in open("/proc/self/mountinfo")}
        paths = [top] if name in ("root", "cwd") else [f"{top}/{one}" for one in os.listdir(top)]
        # What matters is whether a link leads to a directory that is not below our own root.
        for path in paths:
            found = os.stat(path)
            if not stat.S_ISDIR(found.st_mode):
                continue
            device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
            if not GIVEN["sandboxed"] or device not in mounts or _leads_out(path):
                return
        raise Held("nothing but our own")

    FAMILY.add(
        f"out of the root by /proc/1/{_name}",
        _link,
        105,
        control="the plain process's links lead to files only"
        if _name in ("fd", "map_files")
        else "",
    )


def _leads_out(path: str) -> bool:
    try:
        os.stat(f"{path}/../../../../../../../../etc/shadow")
    except OSError:
        return False
    return True


@FAMILY("type into the terminal (TIOCSTI)", 46)
def _() -> None:
    def act() -> None:
        _, slave = pty.openpty()
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        fcntl.ioctl(slave, termios.TIOCSTI, b"x")

    in_child(act)


@FAMILY("type with garbage in the request's high half", 46)
def _() -> None:
    def act() -> None:
        _, slave = pty.openpty()
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        # The kernel takes 32 bits of a request; a filter that compares 64 lets this pass.
        syscall(16, 29, slave, 1 << 32 | termios.TIOCSTI, b"x")

    in_child(act)


@FAMILY("paste from the console (TIOCLINUX)", 46, control="only a virtual console answers")
def _() -> None:
    _, slave = pty.openpty()
    fcntl.ioctl(slave, 0x541C, b"\x03")


@FAMILY("a signal when somebody outside writes (F_SETOWN)")
def _() -> None:
    ours, _theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, GIVEN["victim"])


@FAMILY("shared memory of System V from outside", 78)
def _() -> None:
    called(LIBC.shmget(GIVEN["shm_key"], 0, 0))


@FAMILY("a message queue of System V from outside", 78)
def _() -> None:
    called(LIBC.msgget(GIVEN["shm_key"], 0))


@FAMILY("semaphores of System V from outside", 78)
def _() -> None:
    called(LIBC.semget(GIVEN["shm_key"], 0, 0))


@FAMILY("shared memory of POSIX from outside", 78)
def _() -> None:
    opens("/dev/shm/" + GIVEN["shm_name"])


@FAMILY("a message queue of POSIX from outside", 78)
def _() -> None:
    os.close(syscall(240, 180, GIVEN["shm_name"].encode(), os.O_RDONLY, 0, None))


@FAMILY("SCM_CREDENTIALS of somebody else")
def _() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    claim = struct.pack("=iII", GIVEN["victim"] if not GIVEN["sandboxed"] else 1, 0, 0)
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, claim)])
