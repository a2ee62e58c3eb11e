"""Inodes: which of the two forms one takes, where it stands, and its bytes. Pure.

A compact inode has 32 bytes, 16 bits for each owner and the count of links, 32 for the size, and the time that the
whole image has; an extended one has 64 and room for all of it. Behind either stand its attributes, then the
map of a file, the target of a link, or the last part of a directory.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.trees import Entry

from glowplug_worker.images.erofs.disk import (
    BLOCK,
    COMPACT,
    COMPACT_BYTES,
    COMPACT_INODE,
    EXTENDED,
    EXTENDED_BYTES,
    EXTENDED_INODE,
    FLAT_INLINE,
    FLAT_PLAIN,
    SLOT,
    U16_MAX,
    U32_MAX,
)
from glowplug_worker.images.erofs.xattrs import body_count

# What is longer gets blocks of its own: to keep it whole beside its inode would waste as much.
INLINE_BYTES_MAX = BLOCK // 2


class Epoch(msgspec.Struct, frozen=True):
    """The time that compact inodes have: seconds and nanoseconds."""

    s: int = 0
    ns: int = 0


class Inode(msgspec.Struct, gc=False):
    """An inode that has been given its place.

    `tail` is what follows it and its attributes (a directory's is made when all inodes have their
    numbers); `value` is the field whose meaning depends on the layout: a first block, or a map's format.
    """

    offset: int
    version: int
    layout: int
    xattrs: bytes
    size: int
    value: int
    tail: bytes

    @property
    def number(self) -> int:
        """By which directories name it."""
        return self.offset // SLOT

    @property
    def head_bytes(self) -> int:
        """Where its tail starts, from its own start."""
        return (EXTENDED_BYTES if self.version == EXTENDED else COMPACT_BYTES) + len(self.xattrs)


def version_of(entry: Entry, size: int, links: int, epoch: Epoch) -> int:
    """Return the smallest form that can say all of it."""
    fits = (
        entry.mtime_s == epoch.s
        and entry.mtime_ns == epoch.ns
        and entry.uid <= U16_MAX
        and entry.gid <= U16_MAX
        and links <= U16_MAX
        and size <= U32_MAX
    )
    return COMPACT if fits else EXTENDED


def place_inline(offset: int, head_bytes: int, tail_bytes: int) -> tuple[int, int]:
    """Return where an inode whose content may follow it shall stand, and its layout.

    Kernels want such content within one block; older ones, of a link, within the inode's own. So it is
    all in one block, the next one if need be, or the content stands elsewhere.
    """
    if tail_bytes > INLINE_BYTES_MAX or head_bytes + tail_bytes > BLOCK:
        return offset, FLAT_PLAIN
    if offset % BLOCK + head_bytes + tail_bytes > BLOCK:
        offset += -offset % BLOCK
    return offset, FLAT_INLINE


def inode_bytes(entry: Entry, inode: Inode, kind: int, links: int, serial: int) -> bytes:
    """Return the inode's record, without what follows it. `serial` is for programs of 32 bits."""
    form = inode.layout << 1 | inode.version
    count = body_count(inode.xattrs)
    mode = kind | entry.mode
    if inode.version == COMPACT:
        return COMPACT_INODE.pack(
            form,
            count,
            mode,
            links,
            inode.size,
            0,
            inode.value,
            serial,
            entry.uid,
            entry.gid,
            0,
        )
    return EXTENDED_INODE.pack(
        form,
        count,
        mode,
        0,
        inode.size,
        inode.value,
        serial,
        entry.uid,
        entry.gid,
        entry.mtime_s,
        entry.mtime_ns,
        links,
    )
