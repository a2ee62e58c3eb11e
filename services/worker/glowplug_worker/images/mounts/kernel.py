"""The kernel's side of lazy mounts: fanotify's pre-content events, mount(2), leases. Standard library only.

The event's layout is that of linux/fanotify.h (6.14); Python and libc know neither the events nor the errors.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOEXEC = 0x1
_NONBLOCK = 0x2
_CLASS_PRE_CONTENT = 0x8
_UNLIMITED_MARKS = 0x20
_MARK_ADD = 0x1
_MARK_REMOVE = 0x2
_PRE_ACCESS = 0x0010_0000
_ALLOW = 0x1
_DENY = 0x2
_ERRNO_SHIFT = 24
_RANGE = 6  # the kind of information that says which bytes
_VERSION = 3
_EVENT = struct.Struct("=IBBHQii")  # length, version, -, length of this, mask, descriptor, pid
_INFO = struct.Struct("=BBHIQQ")  # kind, -, length, -, offset, count
_RESPONSE = struct.Struct("=iI")
_EVENT_BYTES = 64 * 1024
# What fanotify can make a reader's error; anything else becomes EIO.
_ERRORS = frozenset(
    {errno.EIO, errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}
)

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
_MS_BIND = 0x1000
_MS_SHARED = 1 << 20
MNT_DETACH = 0x2
_UMOUNT_NOFOLLOW = 0x8


def open_group() -> int:
    """Return a new group for pre-content events. Raises: OSError where this kernel or user has none."""
    flags = _CLASS_PRE_CONTENT | _CLOEXEC | _NONBLOCK | _UNLIMITED_MARKS
    return _done(_LIBC.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE))


def mark(group: int, file: int) -> None:
    """Let reads of a file that is open here wait for the group. May be repeated.

    Only descriptors that are opened from now on wait: `file` itself never does, so it can be filled.
    """
    _done(_LIBC.fanotify_mark(group, _MARK_ADD, ctypes.c_uint64(_PRE_ACCESS), file, None))


def unmark(group: int, file: int) -> None:
    """Let nobody wait any more. May be repeated."""
    try:
        _done(_LIBC.fanotify_mark(group, _MARK_REMOVE, ctypes.c_uint64(_PRE_ACCESS), file, None))
    except FileNotFoundError:
        return


def read_events(group: int) -> Iterator[tuple[int, int, int]]:
    """Yield what waits now: a descriptor to answer by and to close then, and the bytes wanted (offset, count)."""
    try:
        data = os.read(group, _EVENT_BYTES)
    except BlockingIOError:
        return
    yield from parse_events(data)


def parse_events(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (descriptor, offset, count) of each event; without a range, all of the file is wanted."""
    at = 0
    while at + _EVENT.size <= len(data):
        length, version, _, head, _, descriptor, _ = _EVENT.unpack_from(data, at)
        if version != _VERSION or length < _EVENT.size:
            raise OSError(errno.EPROTO, "fanotify speaks another version")
        offset, count = 0, 2**63 - 1
        if length >= head + _INFO.size:
            kind, _, _, _, found, size = _INFO.unpack_from(data, at + head)
            if kind == _RANGE:
                offset, count = found, size
        if descriptor >= 0:
            yield descriptor, offset, count
        at += length


def respond(group: int, descriptor: int, error: int) -> bool:
    """Let a reader go on, or fail with `error`; return whether one waited under this number."""
    if error and error not in _ERRORS:
        error = errno.EIO
    response = _DENY | error << _ERRNO_SHIFT if error else _ALLOW
    try:
        os.write(group, _RESPONSE.pack(descriptor, response))
    except FileNotFoundError:
        return False
    return True


def mount(source: str, target: str, kind: str, options: str, flags: int = 0) -> None:
    """Mount something: read-only, without devices and without set-uid. Raises: OSError."""
    flags |= MS_RDONLY | MS_NODEV | MS_NOSUID
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags))
    _done(_LIBC.mount(*arguments, os.fsencode(options)))


def share(path: str) -> None:
    """Make a directory a mount whose inner mounts come and go in copies of this namespace as they do here.

    Each container begins with such a copy. Where the host's mounts are private, one that lives long would keep
    every image that was mounted when it began. Raises: OSError.
    """
    target = os.fsencode(path)
    _done(_LIBC.mount(target, target, None, ctypes.c_ulong(_MS_BIND), None))
    _done(_LIBC.mount(None, target, None, ctypes.c_ulong(_MS_SHARED), None))


def unmount(target: str, *, detach: bool = False) -> bool:
    """Unmount; return whether it is not mounted any more. With `detach` it is gone from sight at once."""
    flags = _UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
    try:
        _done(_LIBC.umount2(os.fsencode(target), flags))
    except OSError as error:
        return error.errno in {errno.EINVAL, errno.ENOENT}
    return True


def opened_elsewhere(file: int) -> bool:
    """Return whether anybody else has this file open, a mounted image included.

    A write lease is given only to a file's one opener. `file` must be writable and the caller's one
    descriptor of it (duplicates are the same one). Where leases are unknown the answer is yes.
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
