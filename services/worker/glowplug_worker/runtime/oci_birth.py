"""What happens between fork and exec of an OCI runtime: the place in which it makes the container.

As in child.py: the forked child, so system calls only. The runtime is the first process of a pid
namespace and lives in a mount namespace of its own, in which its bundle, its state and the container's
root are on a file system in memory. Whatever happens to the worker or the runtime, the kernel ends and
unmounts all of it: on the host nothing was ever made.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from typing import Final

import msgspec

from glowplug_worker.runtime import child
from glowplug_worker.runtime.polling import readable
from glowplug_worker.runtime.spec import Root

_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWNET: Final = 0x4000_0000
_MS_READ_ONLY: Final = 0x1
_MS_SAFE: Final = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec
_MS_NOSUID_NODEV: Final = 0x2 | 0x4
_MS_FLAGS: Final = 0xF
_MS_REMOUNT_BIND: Final = 0x20 | 0x1000
_STAGE_BYTES: Final = b"mode=0755,size=16m"
_PR_SET_SECCOMP: Final = 22
_FILTER_MODE: Final = 2
_INSTRUCTION_BYTES: Final = 8
FIRST_FD: Final = 3


class OciBirth(msgspec.Struct, frozen=True, kw_only=True):
    """How the runtime's process is prepared.

    Attributes:
        worker: pidfd of the worker, which must still live.
        joins: files of control groups that it enters.
        fds: become 3, 4, …: a runtime passes on the first so many.
        files: (name below the staging area, contents).
        disk: descriptor of the container's own disk; -1 = none.
        hidden: a directory that is hidden behind an empty one.
        read_only: mounts that it may only read.
        filter: of system calls, for the runtime itself and all below it; b"" = none.
    """

    worker: int
    joins: tuple[str, ...]
    fds: tuple[int, ...]
    staged: tuple[child.Staged, ...]
    root: Root
    files: tuple[tuple[str, bytes], ...]
    disk: int = -1
    netns: int | None = None
    hidden: str = ""
    read_only: tuple[str, ...] = ()
    filter: bytes = b""

    def __call__(self) -> None:
        """Prepare this process (the forked child) for exec."""
        try:
            self._prepare()
        except OSError as error:
            os.write(2, f"{error}\n".encode())
            raise

    def _prepare(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if readable(self.worker):
            os.kill(os.getpid(), signal.SIGKILL)
        for path in self.joins:
            child.join(path)
        child.limit_resources()
        if self.netns is not None:
            child.check(libc.setns(self.netns, _CLONE_NEWNET), "setns")
        child.stage(self.staged, _STAGE_BYTES)
        if self.disk >= 0:
            child.mount_disk(self.disk)
        self._make_safe()
        child.mount("proc", "/proc", "proc", _MS_SAFE)
        if self.hidden:
            child.mount("tmpfs", self.hidden, "tmpfs", _MS_SAFE | _MS_READ_ONLY, b"size=4k")
        for path in self.read_only:
            child.mount(None, path, None, _MS_REMOUNT_BIND | _MS_READ_ONLY)
        self._fill()
        self._renumber()
        if self.filter:
            _filter(libc, self.filter)

    def _make_safe(self) -> None:
        """No device and no set-user-id file works below what is bound: crun forgets it where one may write.

        What a mount has besides stays; statvfs and mount count these flags alike.
        """
        for item in self.staged:
            path = f"{child.stage_root()}/{item.name}"
            flags = os.statvfs(path).f_flag & _MS_FLAGS | _MS_NOSUID_NODEV
            child.mount(None, path, None, _MS_REMOUNT_BIND | flags)

    def _fill(self) -> None:
        stage = child.stage_root()
        for name, data in self.files:
            path = f"{stage}/{name}"
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)  # noqa: PTH103, PTH120
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.write(fd, data)
            os.close(fd)
        root = f"{stage}/root"
        os.makedirs(root, 0o755, exist_ok=True)  # noqa: PTH103
        for path in self.root.directories:
            os.makedirs(root + path, 0o755, exist_ok=True)  # noqa: PTH103
        for path in self.root.files:
            os.close(os.open(root + path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        for path, target in self.root.links:
            os.symlink(target, root + path)  # noqa: PTH211

    def _renumber(self) -> None:
        """Give the descriptors the numbers 3, 4, …, each of which is another's or nobody's by now."""
        wanted = range(FIRST_FD, FIRST_FD + len(self.fds))
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, wanted.stop) for fd in self.fds]
        for fd, number in zip(high, wanted, strict=True):
            os.dup2(fd, number, inheritable=True)
            os.close(fd)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _filter(libc: ctypes.CDLL, code: bytes) -> None:
    program = _Program(len(code) // _INSTRUCTION_BYTES, code)
    result = libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0)
    child.check(result, "the filter of system calls")
