"""Extended attributes: what stands behind an inode, and what inodes share. Pure.

An attribute that two inodes have with the same value is written once, in an area of its own, and they name
it by its place there; others follow their inode.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Iterable, Sequence

from glowplug_contracts.trees import Xattr

# Each name starts with one of these, which is written as its number; an access list is nothing but it.
_PREFIXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
_ENTRY = struct.Struct("<BBH")
# Its first word is a filter of names, for images that say that they have one.
_HEAD = struct.Struct("<IB7x")
_WORD = 4
# With one inode only it would cost a word more.
_SHARED_MIN = 2


class XattrPlan:
    """Where each attribute of a tree is written. `area` is what inodes share, to lie at a block."""

    def __init__(self, sets: Iterable[Sequence[Xattr]]) -> None:
        counts = collections.Counter(each for xattrs in sets for each in xattrs)
        self._shared: dict[Xattr, int] = {}
        area = bytearray()
        for each, count in counts.items():  # in the order of first use
            if count >= _SHARED_MIN:
                self._shared[each] = len(area) // _WORD
                area += entry_bytes(each)
        self.area = bytes(area)

    def body(self, xattrs: Sequence[Xattr]) -> bytes:
        """Return what follows an inode with these attributes; nothing if it has none."""
        if not xattrs:
            return b""
        shared = [self._shared[each] for each in xattrs if each in self._shared]
        own = [entry_bytes(each) for each in xattrs if each not in self._shared]
        return b"".join(
            (_HEAD.pack(0, len(shared)), struct.pack(f"<{len(shared)}I", *shared), *own)
        )


def body_count(body: bytes) -> int:
    """Return the number by which an inode tells the length of its attributes."""
    return 1 + (len(body) - _HEAD.size) // _WORD if body else 0


def entry_bytes(xattr: Xattr) -> bytes:
    """Return one attribute as it is written, up to a multiple of four bytes."""
    prefix, number = next(
        (prefix, number) for prefix, number in _PREFIXES if xattr.name.startswith(prefix)
    )
    name = xattr.name.removeprefix(prefix)
    size = _ENTRY.size + len(name) + len(xattr.value)
    head = _ENTRY.pack(len(name), number, len(xattr.value))
    return b"".join((head, name, xattr.value, bytes(-size % _WORD)))
