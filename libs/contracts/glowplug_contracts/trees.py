"""The flattened manifest: a whole file tree as values, its content as named objects.

What an image, a volume or a set of weights looks like once its layers are gone: every file, directory and
link in one list, in one order, so that equal trees have equal bytes and one digest. Workers write it
(`images/flatten.py`) and make an EROFS image of it (`images/erofs`), imagecache keeps it. The rules that
a tree must keep are in `tree_rules.py`; nothing here has been checked unless its `decode_tree` returned it.

The order: the root, then every directory's children by the bytes of their names, directories in the
order in which they stand in the list themselves. So an entry says who its parent is by a number, the
children of a directory stand side by side, and no name can be there twice.

Content is in two tables, in the order of first use. `packs` hold small files, each starting at a block;
`pieces` are what larger files are cut into, at multiples of PIECE_BYTES of the file. What is all zeros
is no object: it is a hole.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from glowplug_contracts.codec import encode
from glowplug_contracts.manifests import CHUNK_BYTES, ENTRIES_MAX

# What a reader of this release understands. A higher one is refused: it may mean anything.
TREE_FORMAT = 1
# The block of the file systems that are made of it: files in a pack start at a multiple.
BLOCK_BYTES = 4096
# Cut at file-aligned multiples, since pieces of a flattened image do not dedup.
PIECE_BYTES = CHUNK_BYTES
# Files up to here travel in packs, so that thousands of them are a few objects. Above, a request more
# costs less than moving neighbours that nobody asked for.
PACKED_FILE_BYTES_MAX = 32 * 1024
# Of each table: 4 TiB of content. What is longer is refused before anything of it is read.
OBJECTS_MAX = 4 * 1024 * 1024
XATTRS_MAX = 128


class Xattr(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One extended attribute: its whole name (`user.colour`) and its value, both as they are."""

    name: bytes
    value: bytes


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every entry but a hard link says. Names are bytes: nothing promises that they are text."""

    parent: int
    """Index of the directory it is in; the root's is its own."""
    name: bytes
    mode: int
    """The twelve bits of permission, set-uid, set-gid and sticky; the kind is the entry's type."""
    uid: int
    gid: int
    mtime_s: int
    """Seconds since 1970, before it negative."""
    mtime_ns: int
    xattrs: Annotated[tuple[Xattr, ...], msgspec.Meta(max_length=XATTRS_MAX)]
    """Sorted by name."""


class Directory(Entry, frozen=True, array_like=True, gc=False, tag="d"):
    """A directory. How many links it has follows from its children."""


class PackedFile(Entry, frozen=True, array_like=True, gc=False, tag="p"):
    """A small regular file: `size` bytes of pack number `pack`, from its block number `block`."""

    size: int
    pack: int
    block: int


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`count` pieces of a file, from its piece number `at`: entries of `pieces`, from `first`."""

    at: int
    first: int
    count: int


class File(Entry, frozen=True, array_like=True, gc=False, tag="f"):
    """Any other regular file. What no run covers is a hole; without a run it is empty, or all zeros."""

    size: int
    runs: tuple[Run, ...]


class Symlink(Entry, frozen=True, array_like=True, gc=False, tag="l"):
    """A symbolic link, with its target as it is written. It may lead anywhere: readers take care."""

    target: bytes


class Fifo(Entry, frozen=True, array_like=True, gc=False, tag="n"):
    """A named pipe."""


class Socket(Entry, frozen=True, array_like=True, gc=False, tag="s"):
    """A socket's place in the tree; nobody listens there."""


class HardLink(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="h"):
    """One more name of an earlier entry that is no directory, which has the attributes."""

    parent: int
    name: bytes
    target: int


AnyEntry = Directory | PackedFile | File | Symlink | Fifo | Socket | HardLink


class StoredObject(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An object of the store: the 32 bytes of its BLAKE3, and how many bytes it names."""

    digest: bytes
    size: int


Objects = Annotated[tuple[StoredObject, ...], msgspec.Meta(max_length=OBJECTS_MAX)]


class FlatTree(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tree. Devices do not exist here: what makes a manifest refuses them."""

    format: int = TREE_FORMAT
    entries: Annotated[tuple[AnyEntry, ...], msgspec.Meta(max_length=ENTRIES_MAX)]
    packs: Objects = ()
    pieces: Objects = ()


def encode_tree(tree: FlatTree) -> bytes:
    """Return the bytes whose BLAKE3 is the tree's digest."""
    return encode(tree, "msgpack")
