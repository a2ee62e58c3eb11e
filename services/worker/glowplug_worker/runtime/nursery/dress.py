"""What a newborn gets before it runs: its own /proc, /tmp and devices, a name, an identity.

All of it is done from outside by a child of the nursery (`in_namespaces_of`), because the newborn has no
power to do it and may not have any.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import Final

from glowplug_worker.runtime.nursery.tracer import LIBC

_NEWNS: Final = 0x20000
_NEWUTS: Final = 0x4000000
_NEWUSER: Final = 0x10000000
_NEWPID: Final = 0x20000000
_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_MOUNT_SETATTR: Final = 442
_HERE: Final = -100  # AT_FDCWD
_EMPTY_PATH: Final = 0x1000
_RECURSIVE: Final = 0x8000
_CLOEXEC: Final = 1
_CLONE: Final = 1
_SET_STRING: Final = 1
_CREATE: Final = 6
_FROM_EMPTY_PATH: Final = 0x4
_RDONLY: Final = 1
_NOSUID: Final = 2
_NODEV: Final = 4
_NOEXEC: Final = 8

LIBC.syscall.restype = ctypes.c_long

# The user inside, as in `runtime/bwrap.py`, and who that is in the template's own user namespace.
USER: Final = 1000
# Keys of this host that belong to the user whom the container runs as; files of /proc have no namespace.
UNREADABLE: Final = ("/proc/keys", "/proc/key-users")
TMPFS_OPTIONS: Final = (("mode", "1777"), ("size", str(1 << 30)))


def unreadable() -> tuple[str, ...]:
    """Return those of the files that this kernel has."""
    return tuple(path for path in UNREADABLE if os.path.exists(path))  # noqa: PTH110 - a few of them


def begin(child: int, template: int, order: dict[str, object]) -> int:
    """Begin to prepare a stopped newborn, beside us; return who does it, for `finish`. Raises: OSError."""
    pidfd = os.pidfd_open(child)
    try:
        check(LIBC.setns(pidfd, _NEWPID), "joining the pid namespace")
        dresser = os.fork()
        if dresser == 0:
            try:
                _in_namespaces_of(pidfd, template, order)
            except BaseException as error:  # noqa: BLE001 - a forked child must not return
                os.write(2, f"nursery: {error}\n".encode())
                os._exit(1)
            os._exit(0)
    finally:
        os.close(pidfd)
    return dresser


def finish(dresser: int) -> None:
    """Wait until the newborn is prepared. Raises: OSError if it is not."""
    try:
        _, status = os.waitpid(dresser, 0)
    except BaseException:
        give_up(dresser)
        raise
    if status != 0:
        raise OSError(f"it could not be given its own file systems (status {status})")


def give_up(dresser: int) -> None:
    """End it, whatever it does; it may have ended."""
    try:
        os.kill(dresser, signal.SIGKILL)
        os.waitpid(dresser, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _in_namespaces_of(pidfd: int, template: int, order: dict[str, object]) -> None:
    # Made while we still see the host; then we join the newborn and put them there.
    mounts = [
        (new_file_system("proc", (), _NOSUID | _NODEV | _NOEXEC), "/proc"),
        *((_shown("/dev/null", writable=False), path) for path in unreadable()),
        (
            new_file_system("devpts", (("mode", "620"), ("ptmxmode", "666")), _NOSUID | _NOEXEC),
            "/dev/pts",
        ),
        (new_file_system("tmpfs", TMPFS_OPTIONS, _NOSUID | _NODEV), "/dev/shm"),  # noqa: S108 - the newborn's own
        (new_file_system("tmpfs", TMPFS_OPTIONS, _NOSUID | _NODEV), "/tmp"),  # noqa: S108
    ]
    for source, target, writable in order.get("binds", ()):  # type: ignore[attr-defined]
        mounts.append((_shown(str(source), writable=bool(writable)), str(target)))
    if order.get("own_network"):
        check(LIBC.setns(pidfd, _NEWNET), "joining the network")
        _raise_loopback()
    users = os.open(f"/proc/{template}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    check(LIBC.setns(pidfd, _NEWNS | _NEWUTS), "joining the namespaces")
    for tree, target in mounts:
        _call(_MOVE_MOUNT, tree, b"", _HERE, target.encode(), _FROM_EMPTY_PATH)
    name = str(order.get("hostname", "glowplug")).encode()
    check(LIBC.sethostname(name, len(name)), "naming the host")
    # Only who is in the parent user namespace may say who is who; in its own the newborn is process 1.
    check(LIBC.setns(users, _NEWUSER), "joining the template's user namespace")
    for file, line in (("setgroups", "deny"), ("gid_map", ""), ("uid_map", "")):
        with open(f"/proc/1/{file}", "w") as written:  # noqa: PTH123
            written.write(line or f"{USER} {USER} 1\n")


def _raise_loopback() -> None:
    import fcntl  # noqa: PLC0415 - only where there are networks
    import socket  # noqa: PLC0415 - likewise

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        fcntl.ioctl(anything, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def new_file_system(kind: str, options: tuple[tuple[str, str], ...], flags: int) -> int:
    """Return a new file system, mounted nowhere yet."""
    context = _call(_FSOPEN, kind.encode(), _CLOEXEC)
    for key, value in options:
        _call(_FSCONFIG, context, _SET_STRING, key.encode(), value.encode(), 0)
    _call(_FSCONFIG, context, _CREATE, None, None, 0)
    tree = _call(_FSMOUNT, context, _CLOEXEC, flags)
    os.close(context)
    return tree


def _shown(source: str, *, writable: bool) -> int:
    """Return a view of a directory of the host, mounted nowhere yet."""
    tree = _call(_OPEN_TREE, _HERE, source.encode(), _CLONE | os.O_CLOEXEC | _RECURSIVE)
    flags = _NOSUID | _NODEV | (0 if writable else _RDONLY)
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    _call(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH | _RECURSIVE, ctypes.byref(attributes), 32)
    return tree


def _call(number: int, *arguments: object) -> int:
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return check(LIBC.syscall(ctypes.c_long(number), *passed), f"system call {number}")


def check(result: int, what: str) -> int:
    """Return what a call of libc returned. Raises: OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
