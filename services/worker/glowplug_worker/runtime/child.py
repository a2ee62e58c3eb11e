"""What happens in a container's first process between fork and exec.

Runs in the forked child, so: no locks, no logging, nothing that may block; system calls only, and only the
standard library, for the launcher forks them, too. An error raised here is reported to the worker. For a worker
run by root it makes a private mount namespace in which everything that the container needs is reachable for its
unprivileged user id (a virtual environment or data directory under /root is not), and becomes that id.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWNS: Final = 0x20000
_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000
_MS_NOSUID_NODEV: Final = 0x2 | 0x4
_MS_BIND: Final = 0x1000
# Nothing of ours leaves the namespace; what the host unmounts is gone in it, too, and so not held by containers.
_MS_REC_SLAVE: Final = 0x4000 | 0x80000

# Where the staging area goes, in the child's own mount namespace; what it hides is hidden for nobody else.
_STAGE_CANDIDATES: Final = ("/mnt", "/srv", "/media", "/opt", "/tmp")  # noqa: S108 - a private mount

# Name of a container's disk in the staging area.
DISK: Final = "disk"
_MOVE_MOUNT: Final = 429
_AT_FDCWD: Final = -100
_EMPTY_PATH: Final = 4

OPEN_FILES_MAX: Final = 65_536
FILE_BYTES_MAX: Final = 256 << 30


class Staged(NamedTuple):
    """A path of the host, and its name below the staging area."""

    source: Path | str
    name: str


class Birth(NamedTuple):
    """How the child is prepared. `uid` None: it keeps the worker's id and sees the worker's paths.

    `disk`: descriptor of a detached file system that it mounts in the staging area, as DISK.
    `joins`: files of control groups that it enters, before anything hides them and while it still may.
    `netns`: open descriptor of the network namespace that it joins, which takes root. `covers`: files
    that it alone sees over those of the host (source, target), where it keeps the host's root. `home`:
    open descriptors of the user and mount namespaces that it is made in.
    """

    parent: int
    joins: tuple[str, ...] = ()
    uid: int | None = None
    staged: tuple[Staged, ...] = ()
    disk: int = -1
    netns: int | None = None
    covers: tuple[tuple[str, str], ...] = ()
    home: tuple[int, int] | None = None

    def born(self) -> None:
        """Prepare this process, forked by `subprocess`, for exec."""
        try:
            self.prepare()
        except OSError as error:
            # subprocess tells the worker only that something went wrong here.
            os.write(2, f"{error}\n".encode())
            raise

    def prepare(self) -> None:
        """Prepare this process, however it was forked. Raises: OSError."""
        for path in self.joins:
            join(path)
        limit_resources()
        if self.home is not None:
            check(_LIBC.setns(self.home[0], _CLONE_NEWUSER), "setns")
            check(_LIBC.setns(self.home[1], _CLONE_NEWNS), "setns")
        if self.netns is not None:
            check(_LIBC.setns(self.netns, _CLONE_NEWNET), "setns")
        if self.covers:
            _cover(self.covers)
        if self.staged:
            stage(self.staged)
        if self.disk >= 0:
            mount_disk(self.disk)
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        # Last, because a change of user id clears it.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)


def limit_resources() -> None:
    """No core dumps, bounded files and descriptors.

    Never RLIMIT_AS or RLIMIT_NPROC: the first fails idle threads, the second counts the whole user.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES_MAX)


def join(path: str) -> None:
    """Enter a control group."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, b"0")
    os.close(fd)


def stage_root() -> str:
    """Return the directory over which the staging area is mounted."""
    return next(path for path in _STAGE_CANDIDATES if os.path.isdir(path))  # noqa: PTH112 - no pathlib here


def mount_disk(fd: int) -> None:
    """Mount a detached file system in the staging area."""
    target = f"{stage_root()}/{DISK}"
    os.mkdir(target, 0o755)  # noqa: PTH102 - plain calls
    result = _LIBC.syscall(
        ctypes.c_long(_MOVE_MOUNT), fd, b"", _AT_FDCWD, target.encode(), _EMPTY_PATH
    )
    check(result, "move_mount")


def allow_open_files() -> None:
    """Let this process have as many descriptors as it may: an ordinary user's first bound is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files() -> int:
    """Return how many descriptors a process of a container may have open."""
    return _lowered(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)


def _lower(which: int, limit: int) -> None:
    limit = _lowered(which, limit)
    resource.setrlimit(which, (limit, limit))


def _lowered(which: int, limit: int) -> int:
    _, hard = resource.getrlimit(which)
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def stage(staged: tuple[Staged, ...], options: bytes = b"mode=0755,size=1m") -> None:
    """Make a private mount namespace, and in it the staging area with what is to be reachable."""
    root = stage_root()
    check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    mount(None, "/", None, _MS_REC_SLAVE)
    # Opened before the staging area hides anything, and after unshare: a mount can only be bound from
    # the namespace that it is in.
    opened = [(os.open(item.source, os.O_PATH | os.O_CLOEXEC), item) for item in staged]
    mount("tmpfs", root, "tmpfs", _MS_NOSUID_NODEV, options)
    for fd, item in opened:
        target = f"{root}/{item.name}"
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)  # noqa: PTH103, PTH120 - plain calls
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112
            os.mkdir(target, 0o755)  # noqa: PTH102
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(f"/proc/self/fd/{fd}", target, None, _MS_BIND)
        os.close(fd)


def _cover(covers: tuple[tuple[str, str], ...]) -> None:
    check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    mount(None, "/", None, _MS_REC_SLAVE)
    for source, target in covers:
        if os.path.exists(target):  # noqa: PTH110 - plain calls
            mount(source, target, None, _MS_BIND)


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: bytes | None = None
) -> None:
    """Mount something. Raises: OSError."""
    result = _LIBC.mount(
        None if source is None else source.encode(),
        target.encode(),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        data,
    )
    check(result, f"mount {target}")


def check(result: int, what: str) -> None:
    """Raise OSError if a call of libc failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
