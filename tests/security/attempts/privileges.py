"""Becoming more than one is: ids, capabilities, priorities, limits."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import struct
import subprocess

from .kit import GIVEN, LIBC, Family, Held, called, in_child, reached, syscall

FAMILY = Family("privileges")


def _status(name: str) -> str:
    with open("/proc/self/status") as file:
        return dict(line.split(":", 1) for line in file)[name].strip()


@FAMILY("become root")
def _() -> None:
    def act() -> None:
        os.setresuid(0, 0, 0)
        if int(_status("CapEff"), 16) == 0:
            raise Held("no capabilities")

    in_child(act)


def _fsuid() -> None:
    LIBC.setfsuid(0x7FFFFFFF - 1)
    if LIBC.setfsuid(-1) != 0x7FFFFFFF - 1:
        raise Held("unchanged")


for _title, _act in (
    ("another user id", lambda: os.setresuid(4242, 4242, 4242)),
    ("another group id", lambda: os.setresgid(4242, 4242, 4242)),
    ("other groups", lambda: os.setgroups([0, 4242])),
    ("the file system's user id", _fsuid),
):
    FAMILY.add(_title, lambda act=_act: in_child(act))


def _capset(effective: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    low, high = effective & 0xFFFFFFFF, effective >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    called(LIBC.capset(header, data))


@FAMILY("capset: CAP_SYS_ADMIN")
def _() -> None:
    in_child(lambda: _capset(1 << 21))


@FAMILY("an ambient capability")
def _() -> None:
    def act() -> None:
        if not GIVEN["sandboxed"]:
            header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
            one = 1 << 21
            data = ctypes.create_string_buffer(struct.pack("=6I", one, one, one, 0, 0, 0))
            called(LIBC.capset(header, data))
        called(LIBC.prctl(47, 2, 21, 0, 0))

    in_child(act)


@FAMILY("any capability in any set")
def _() -> None:
    if not any(int(_status(f"Cap{name}"), 16) for name in ("Eff", "Prm", "Inh", "Amb", "Bnd")):
        raise Held("none")


@FAMILY("change the secure bits")
def _() -> None:
    in_child(lambda: called(LIBC.prctl(28, 1 << 4, 0, 0, 0)))


@FAMILY("take no_new_privs back")
def _() -> None:
    if _status("NoNewPrivs") == "1":
        called(LIBC.prctl(38, 0, 0, 0, 0))
        if _status("NoNewPrivs") == "1":
            raise Held("it stays")


@FAMILY("run without a filter of system calls")
def _() -> None:
    if _status("Seccomp") == "2":
        raise Held("filtered")


@FAMILY("change the filter's mode back")
def _() -> None:
    if not GIVEN["sandboxed"]:
        return
    called(LIBC.prctl(22, 0, 0, 0, 0))


@FAMILY(
    "a setuid program of the host",
    49,
    control="root is root already; the test of backends shows it as an ordinary user",
)
def _() -> None:
    found = [path for path in map(shutil.which, ("su", "mount", "passwd", "chsh")) if path]
    found = [path for path in found if os.stat(path).st_mode & 0o4000]
    if not found:
        raise Held("no setuid program in sight")
    code = "import os; print(os.geteuid())"
    # What it would run as is decided at exec: read it from its own status while it waits for input.
    process = subprocess.Popen([found[0]], stdin=subprocess.PIPE, stdout=-3, stderr=-3)
    try:
        with open(f"/proc/{process.pid}/status") as file:
            euid = dict(line.split(":", 1) for line in file)["Uid"].split()[1]
    finally:
        process.kill()
        process.wait()
    if int(euid) != 0:
        raise Held(f"it ran as {euid} {code[:0]}")


@FAMILY("a setuid program of its own making", 49)
def _() -> None:
    path = GIVEN["writable"] + "/setuid"
    shutil.copy("/usr/bin/true", path)
    try:
        os.chown(path, 0, 0)
        os.chmod(path, 0o6755)
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            raise Held("mounted nosuid")
    finally:
        os.unlink(path)


@FAMILY("a file capability", 49, 109)
def _() -> None:
    path = GIVEN["writable"] + "/capable"
    with open(path, "wb"):
        pass
    try:
        value = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)
        os.setxattr(path, "security.capability", value)
    finally:
        os.unlink(path)


@FAMILY("a nicer place: -20", 70)
def _() -> None:
    in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))


@FAMILY("real-time scheduling", 70)
def _() -> None:
    in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


@FAMILY("deadline scheduling", 70)
def _() -> None:
    attributes = struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**6, 10**8, 10**8)
    in_child(lambda: syscall(314, 274, 0, ctypes.create_string_buffer(attributes), 0))


@FAMILY("real-time priority of disks", 70)
def _() -> None:
    in_child(lambda: syscall(251, 30, 1, 0, 1 << 13 | 0))


def _raise_limit(which: int, limit: int) -> None:
    try:
        resource.setrlimit(which, (limit, limit))
    except ValueError as error:
        raise Held(str(error)) from None


@FAMILY("a higher limit of open files", 68)
def _() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_child(lambda: _raise_limit(resource.RLIMIT_NOFILE, hard + 1))


@FAMILY("core dumps again", 79)
def _() -> None:
    in_child(lambda: _raise_limit(resource.RLIMIT_CORE, 1 << 20))


@FAMILY("lock more memory than it was given", 61)
def _() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    in_child(lambda: _raise_limit(resource.RLIMIT_MEMLOCK, max(hard, 0) + 4096))


@FAMILY("another process's limits by prlimit")
def _() -> None:
    limits = ctypes.create_string_buffer(16)
    syscall(302, 261, GIVEN["victim"], 7, None, limits)


@FAMILY("another exe link (PR_SET_MM_EXE_FILE)", 39)
def _() -> None:
    reached(lambda: called(LIBC.prctl(35, 13, -1, 0, 0)), errno.EBADF, errno.EINVAL)
