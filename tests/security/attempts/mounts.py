"""Mounts by the old and the new calls, other roots, and control groups."""

from __future__ import annotations

import errno
import glob
import os
import sys

from .kit import AT_FDCWD, GIVEN, LIBC, Family, Held, called, in_child, opens, reached, syscall

FAMILY = Family("mounts")

_BIND, _REC, _REMOUNT, _PRIVATE, _SHARED = 0x1000, 0x4000, 0x20, 1 << 18, 1 << 20
_DETACH = 2


def _mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    called(LIBC.mount(*words, flags, data.encode() or None))


def _apart(act):
    """Run where mounts are seen by nobody else, if that can be had; in a sandbox it can't."""

    def run() -> None:
        if LIBC.unshare(0x20000) == 0:
            LIBC.mount(b"none", b"/", None, _REC | _PRIVATE, None)
        act()

    return lambda: in_child(run)


for _kind, _number in {
    "tmpfs": 11, "proc": 11, "sysfs": 11, "devpts": 11, "mqueue": 11, "ramfs": 11, "debugfs": 11,
    "tracefs": 11, "bpf": 11, "cgroup2": 11, "binfmt_misc": 5, "securityfs": 11, "configfs": 11,
    "devtmpfs": 11, "pstore": 11,
}.items():  # fmt: skip
    FAMILY.add(f"mount {_kind}", _apart(lambda kind=_kind: _mount("none", "/tmp", kind)), _number)


@FAMILY("mount a cgroup v1 hierarchy", 7)
def _() -> None:
    _apart(lambda: reached(lambda: _mount("none", "/tmp", "cgroup", 0, "memory"), errno.EBUSY))()


@FAMILY("mount an overlay over /usr", 11)
def _() -> None:
    def act() -> None:
        top = GIVEN["writable"] + "/overlay"
        for name in ("", "/up", "/work"):
            os.makedirs(top + name, exist_ok=True)
        _mount(
            "overlay", "/usr", "overlay", 0, f"lowerdir=/usr,upperdir={top}/up,workdir={top}/work"
        )

    _apart(act)()


for _title, _number, _arguments in (
    ("bind /tmp over /usr", 11, ("/tmp", "/usr", "", _BIND)),
    ("bind a file over /etc/passwd", 11, ("/etc/group", "/etc/passwd", "", _BIND)),
    ("bind the interpreter over a program", 39, (sys.executable, "/usr/bin/env", "", _BIND)),
    ("remount / writable", 12, ("none", "/", "", _REMOUNT | _BIND)),
    ("remount /proc writable", 12, ("none", "/proc", "", _REMOUNT | _BIND)),
    ("make / shared", 12, ("none", "/", "", _SHARED | _REC)),
):
    FAMILY.add(_title, _apart(lambda arguments=_arguments: _mount(*arguments)), _number)


@FAMILY("remount /usr writable, and write", 12)
def _() -> None:
    def act() -> None:
        _mount("/usr", "/usr", "", _BIND)
        _mount("none", "/usr", "", _REMOUNT | _BIND)
        opens("/usr/glowplug-test", os.O_CREAT | os.O_WRONLY)
        os.unlink("/usr/glowplug-test")

    _apart(act)()


for _path in ("/proc", "/dev", "/tmp", "/proc/sys", "/proc/kcore"):

    def _reveal(path: str = _path) -> None:
        if not GIVEN["sandboxed"]:
            _mount("tmpfs", "/mnt", "tmpfs")
            path = "/mnt"
        called(LIBC.umount2(path.encode(), _DETACH))

    FAMILY.add(f"unmount {_path}, to see what is below", _apart(_reveal), 13)


@FAMILY("chroot", 15)
def _() -> None:
    in_child(lambda: os.chroot("/tmp"))


@FAMILY("chroot, and out again by a kept descriptor", 15)
def _() -> None:
    def act() -> None:
        kept = os.open("/", os.O_RDONLY)
        os.chroot("/tmp")
        os.fchdir(kept)
        os.chroot(".")

    in_child(act)


@FAMILY("pivot_root", 15)
def _() -> None:
    # The kernel looks at capabilities first, and at the two directories only then.
    _apart(lambda: reached(lambda: syscall(155, 41, b"/tmp", b"/tmp"), errno.EINVAL, errno.EBUSY))()


for _title, _number, _arguments, _refusals in (
    ("fsopen", 430, (b"tmpfs", 0), ()),
    ("fsopen: proc", 430, (b"proc", 0), ()),
    ("fsconfig", 431, (-1, 0, b"x", b"y", 0), (errno.EBADF, errno.EINVAL)),
    ("fsmount", 432, (-1, 0, 0), (errno.EBADF,)),
    ("fspick", 433, (AT_FDCWD, b"/", 0), ()),
    ("open_tree", 428, (AT_FDCWD, b"/", 0), ()),
    ("open_tree: a clone of /", 428, (AT_FDCWD, b"/", 1), ()),
    ("open_tree_attr", 467, (AT_FDCWD, b"/", 0, None, 0), (errno.EINVAL, errno.EFAULT)),
    ("move_mount", 429, (-1, b"", -1, b"", 0), (errno.EBADF, errno.ENOENT)),
    ("mount_setattr", 442, (AT_FDCWD, b"/", 0, bytes(32), 32), ()),
    ("statmount", 457, (bytes(24), bytes(8), 8, 0), (errno.EINVAL, errno.ENOENT)),
    ("listmount", 458, (bytes(24), bytes(8), 1, 0), (errno.EINVAL, errno.ENOENT)),
):
    FAMILY.add(
        _title,
        _apart(
            lambda number=_number, arguments=_arguments, refusals=_refusals: reached(
                lambda: syscall(number, number, *arguments), *refusals
            )
        ),
        14,
    )


def _writes_any(*patterns: str) -> None:
    paths = [path for pattern in patterns for path in glob.glob(pattern)]
    error: OSError = FileNotFoundError(errno.ENOENT, patterns[0])
    for path in paths[:50]:
        try:
            return opens(path, os.O_WRONLY)
        except OSError as said:
            error = said
    raise error


for _title, _number, _patterns in (
    ("write release_agent", 6, ("/sys/fs/cgroup/*/release_agent", "/sys/fs/cgroup/release_agent")),
    ("write notify_on_release", 6, ("/sys/fs/cgroup/*/notify_on_release",)),
    ("write devices.allow", 8, ("/sys/fs/cgroup/devices/devices.allow",)),
    (
        "move itself out by cgroup.procs",
        9,
        ("/sys/fs/cgroup/*/cgroup.procs", "/sys/fs/cgroup/cgroup.procs"),
    ),
    (
        "write a memory limit",
        10,
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/*/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/*/memory.max",
        ),
    ),
    (
        "write a limit of processes",
        10,
        ("/sys/fs/cgroup/pids/*/pids.max", "/sys/fs/cgroup/pids.max"),
    ),
):
    FAMILY.add(
        _title,
        lambda patterns=_patterns: _writes_any(*patterns),
        _number,
        control="where there is no such group on the host, there is nothing to write",
    )


@FAMILY("make a control group")
def _() -> None:
    for top in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if os.path.isdir(top):
            path = f"{top}/glowplug-test-{os.getpid()}"
            os.mkdir(path)
            os.rmdir(path)
            return
    raise Held("no control groups in sight")
