"""A file system of one file, in FUSE's protocol 7.31: what is asked, and the answers. Pure, standard library only.

The root of the mount is the file itself. Structures are those of linux/fuse.h.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

# Requests are at most this long: there are no writes.
REQUEST_BYTES_MAX = 128 * 1024
# What a read may ask for at once, in pages and bytes.
_PAGES_MAX = 256
_PAGE = 4096
READ_BYTES_MAX = _PAGES_MAX * _PAGE

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI7I")
_READ_IN = struct.Struct("=QQII")
_ATTRIBUTES = struct.Struct("=QII6Q10I")
_OPEN_OUT = struct.Struct("=QIi")

_FORGET = 2
_GETATTR = 3
_OPEN = 14
_READ = 15
_RELEASE = 18
_INIT = 26
_INTERRUPT = 36
_BATCH_FORGET = 42
_UNANSWERED = frozenset({_FORGET, _INTERRUPT, _BATCH_FORGET})

_MAJOR, _MINOR = 7, 31
_ASYNC_READ = 1 << 0
_MAX_PAGES = 1 << 22
_KEEP_CACHE = 1 << 1
_BACKGROUND_MAX = 64
_WRITE_BYTES_MAX = 4096  # the least that the kernel takes; nothing is written
_FOR_GOOD_S = 86_400
_ROOT = 1
_MODE = 0o100400


class Read(NamedTuple):
    """Somebody wants bytes; answer with `reply` and this number."""

    number: int
    offset: int
    size: int


def mount_options(descriptor: int) -> str:
    """Return the options of a mount whose requests come by this descriptor of /dev/fuse."""
    return f"fd={descriptor},rootmode={_MODE:o},user_id=0,group_id=0,allow_other"


def take(request: bytes, size: int) -> Read | bytes:
    """Return what a request wants: bytes of a file of `size`; or else the answer, b"" where there is none."""
    _, operation, number, *_ = _IN.unpack_from(request)
    if operation == _READ:
        _, offset, count, _ = _READ_IN.unpack_from(request, _IN.size)
        return Read(number, offset, max(0, min(count, size - offset, READ_BYTES_MAX)))
    return b"" if operation in _UNANSWERED else _answer(operation, number, request, size)


def _answer(operation: int, number: int, request: bytes, size: int) -> bytes:
    if operation == _INIT:
        _, _, ahead, flags = _INIT_IN.unpack_from(request, _IN.size)
        flags &= _ASYNC_READ | _MAX_PAGES
        limits = (_BACKGROUND_MAX, _BACKGROUND_MAX, _WRITE_BYTES_MAX, 1, _PAGES_MAX, 0)
        return reply(number, _INIT_OUT.pack(_MAJOR, _MINOR, ahead, flags, *limits, 0, *[0] * 7))
    if operation == _GETATTR:
        times, blocks = (0, 0, 0), -(-size // 512)
        facts = (_ROOT, size, blocks, *times, *times, _MODE, 1, 0, 0, 0, _PAGE, 0)
        return reply(number, _ATTRIBUTES.pack(_FOR_GOOD_S, 0, 0, *facts))
    if operation == _OPEN:
        return reply(number, _OPEN_OUT.pack(0, _KEEP_CACHE, 0))
    if operation == _RELEASE:
        return reply(number, b"")
    return refusal(number, errno.ENOSYS)


def reply(number: int, data: bytes) -> bytes:
    """Return the answer with some bytes."""
    return _OUT.pack(_OUT.size + len(data), 0, number) + data


def refusal(number: int, error: int) -> bytes:
    """Return the answer that it fails."""
    return _OUT.pack(_OUT.size, -error, number)
