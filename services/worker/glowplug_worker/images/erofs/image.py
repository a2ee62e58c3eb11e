"""A tree into an image: every inode gets its place, then everything is written. Pure.

The metadata image, from its start: the super block and the table of devices in the first block, inodes in the
tree's order with what follows each, from a block on the content of directories and links that is too
long for that, and at last the attributes that inodes share. Places are given before anything is written, since
directories name inodes by their places, and how long a directory is depends on names only.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Sequence

import msgspec
from glowplug_contracts.trees import (
    AnyEntry,
    Directory,
    Entry,
    Fifo,
    File,
    FlatTree,
    HardLink,
    PackedFile,
    Socket,
    Symlink,
)

from glowplug_worker.images.erofs.chunkmaps import ChunkMap, map_of_packed, map_of_runs
from glowplug_worker.images.erofs.devices import Device, place_objects
from glowplug_worker.images.erofs.directories import (
    DirectorySize,
    Link,
    directory_bytes,
    measure,
)
from glowplug_worker.images.erofs.disk import (
    BLOCK,
    CHUNK_BASED,
    DEVICE_SLOT,
    FLAT_PLAIN,
    INDEX_BYTES,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFREG,
    S_IFSOCK,
    SLOT,
    SUPER_BYTES,
    SUPER_OFFSET,
    TYPE_DIRECTORY,
    TYPE_FIFO,
    TYPE_FILE,
    TYPE_SOCKET,
    TYPE_SYMLINK,
    U32_MAX,
    blocks_of,
    device_slot,
    seal_block,
    super_block,
)
from glowplug_worker.images.erofs.inodes import (
    Epoch,
    Inode,
    inode_bytes,
    place_inline,
    version_of,
)
from glowplug_worker.images.erofs.xattrs import XattrPlan

IDENTITY_BYTES = 16

_KINDS: dict[type[Entry], tuple[int, int]] = {
    Directory: (S_IFDIR, TYPE_DIRECTORY),
    PackedFile: (S_IFREG, TYPE_FILE),
    File: (S_IFREG, TYPE_FILE),
    Symlink: (S_IFLNK, TYPE_SYMLINK),
    Fifo: (S_IFIFO, TYPE_FIFO),
    Socket: (S_IFSOCK, TYPE_SOCKET),
}


class ErofsImage(msgspec.Struct, frozen=True):
    """What to mount: the metadata image, and the two devices that it takes, in this order."""

    metadata: bytes
    packs: Device
    pieces: Device


def build_image(
    tree: FlatTree, identity: bytes, packs: Device | None = None, pieces: Device | None = None
) -> ErofsImage:
    """Return the image of a tree that `check_tree` has taken.

    Args:
        tree: is trusted to keep the rules.
        identity: 16 bytes that tell this file system from others, for the kernel and what stacks on it:
            the first ones of the tree's digest.
        packs, pieces: where the objects lie, if not one after the other from the devices' starts.

    Cost: O(entries + mapped pieces) time and memory; some 6 µs and 0.5 KiB an entry.
    """
    assert len(identity) == IDENTITY_BYTES  # noqa: S101 - the caller's bug
    devices = (packs or place_objects(tree.packs), pieces or place_objects(tree.pieces))
    return _Writer(tree, devices).write(identity)


class _Writer:
    """Writes one image. Lists are by the number of the entry, beside `tree.entries`."""

    def __init__(self, tree: FlatTree, devices: tuple[Device, Device]) -> None:
        self._entries = tree.entries
        self._packs, self._pieces = devices
        self._epoch = _commonest_time(tree.entries)
        self._kinds = _find_kinds(tree.entries)
        self._links = _count_links(tree.entries)
        self._children = _find_children(tree.entries)
        self._xattrs = XattrPlan(
            entry.xattrs for entry in tree.entries if not isinstance(entry, HardLink)
        )
        self._directories: dict[int, DirectorySize] = {}
        self._inodes: list[Inode] = []
        # Where the next inode may stand: after the super block and the table of devices.
        self._end = SUPER_OFFSET + SUPER_BYTES + len(devices) * DEVICE_SLOT
        self._blocks = 0

    def write(self, identity: bytes) -> ErofsImage:
        for index, entry in enumerate(self._entries):
            self._inodes.append(self._place(index, entry))
        self._blocks = blocks_of(self._end)
        self._place_blocks()
        xattr_block = self._blocks
        self._blocks += blocks_of(len(self._xattrs.area))
        image = bytearray(self._blocks * BLOCK)
        for index, entry in enumerate(self._entries):
            if not isinstance(entry, HardLink):
                self._write_inode(image, index, entry)
        _put(image, xattr_block * BLOCK, self._xattrs.area)
        self._write_super(image, identity, xattr_block if self._xattrs.area else 0)
        return ErofsImage(bytes(image), self._packs, self._pieces)

    def _place(self, index: int, entry: AnyEntry) -> Inode:
        """Give one entry its inode, after all that came before."""
        if isinstance(entry, PackedFile):
            start = self._packs.starts[entry.pack] + entry.block
            return self._place_file(index, entry, entry.size, map_of_packed(entry.size, start))
        if isinstance(entry, HardLink):
            return self._inodes[entry.target]
        if isinstance(entry, File):
            if entry.size:
                runs = map_of_runs(entry.size, entry.runs, self._pieces)
                return self._place_file(index, entry, entry.size, runs)
            return self._place_flat(index, entry, 0, b"", tail_bytes=0)
        if isinstance(entry, Directory):
            first, end = self._children[index]
            names = [child.name for child in self._entries[first:end]]
            self._directories[index] = found = measure(names)
            return self._place_flat(index, entry, found.size, b"", tail_bytes=found.tail)
        target = entry.target if isinstance(entry, Symlink) else b""
        return self._place_flat(index, entry, len(target), target, tail_bytes=len(target))

    def _start(self, index: int, entry: Entry, size: int) -> Inode:
        version = version_of(entry, size, self._links[index], self._epoch)
        body = self._xattrs.body(entry.xattrs)
        offset = self._end + -self._end % SLOT
        return Inode(offset, version, FLAT_PLAIN, body, size, 0, b"")

    def _place_file(self, index: int, entry: Entry, size: int, found: ChunkMap) -> Inode:
        inode = self._start(index, entry, size)
        inode.layout, inode.value = CHUNK_BASED, found.format
        # Indexes stand at multiples of their size; attributes before them may have broken that.
        inode.tail = bytes(-len(inode.xattrs) % INDEX_BYTES) + found.indexes
        self._end = inode.offset + inode.head_bytes + len(inode.tail)
        return inode

    def _place_flat(
        self, index: int, entry: Entry, size: int, tail: bytes, *, tail_bytes: int
    ) -> Inode:
        inode = self._start(index, entry, size)
        if tail_bytes:
            inode.offset, inode.layout = place_inline(inode.offset, inode.head_bytes, tail_bytes)
        inode.tail = tail
        self._end = inode.offset + inode.head_bytes
        self._end += 0 if inode.layout == FLAT_PLAIN else tail_bytes
        return inode

    def _place_blocks(self) -> None:
        """Give blocks to what does not stand beside its inode."""
        for index, entry in enumerate(self._entries):
            if isinstance(entry, Directory | Symlink):
                inode = self._inodes[index]
                inode.value = self._blocks
                self._blocks += blocks_of(_bytes_apart(inode))

    def _write_inode(self, image: bytearray, index: int, entry: Entry) -> None:
        inode = self._inodes[index]
        mode, _ = self._kinds[index]
        record = inode_bytes(entry, inode, mode, self._links[index], index + 1)
        content = self._directory(index) if isinstance(entry, Directory) else inode.tail
        if isinstance(entry, Directory | Symlink):
            apart = _bytes_apart(inode)
            _put(image, inode.value * BLOCK, content[:apart])
            content = content[apart:]
        _put(image, inode.offset, b"".join((record, inode.xattrs, content)))

    def _directory(self, index: int) -> bytes:
        first, end = self._children[index]
        links: list[Link] = [
            (self._entries[child].name, self._inodes[child].number, self._kinds[child][1])
            for child in range(first, end)
        ]
        parent = self._inodes[self._entries[index].parent]
        bisect.insort(links, (b".", self._inodes[index].number, TYPE_DIRECTORY))
        bisect.insort(links, (b"..", parent.number, TYPE_DIRECTORY))
        return directory_bytes(self._directories[index], links)

    def _write_super(self, image: bytearray, identity: bytes, xattr_block: int) -> None:
        packs_at = self._blocks
        pieces_at = packs_at + self._packs.blocks
        slots = device_slot(self._packs.blocks, packs_at)
        slots += device_slot(self._pieces.blocks, pieces_at)
        head = super_block(
            inodes=sum(not isinstance(entry, HardLink) for entry in self._entries),
            epoch_s=self._epoch.s,
            epoch_ns=self._epoch.ns,
            blocks=self._blocks,
            root=self._inodes[0].number,
            xattr_block=xattr_block,
            identity=identity,
            devices=2,
            large=pieces_at + self._pieces.blocks >= U32_MAX,
        )
        _put(image, SUPER_OFFSET, head + slots)
        seal_block(image)


def _put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data


def _bytes_apart(inode: Inode) -> int:
    """Return how much of a directory's or a link's content stands in blocks of its own."""
    return inode.size if inode.layout == FLAT_PLAIN else (inode.size - 1) // BLOCK * BLOCK


def _commonest_time(entries: Sequence[AnyEntry]) -> Epoch:
    """Return the time that most entries have, the earliest of several: theirs are compact inodes."""
    counts = collections.Counter(
        (entry.mtime_s, entry.mtime_ns) for entry in entries if not isinstance(entry, HardLink)
    )
    return Epoch(*min(counts, key=lambda time: (-counts[time], time)))


def _find_kinds(entries: Sequence[AnyEntry]) -> list[tuple[int, int]]:
    """Return the kind that each entry's inode has: the bits of its mode, and a directory's number for it."""
    kinds: list[tuple[int, int]] = []
    for entry in entries:
        if isinstance(entry, HardLink):
            kinds.append(kinds[entry.target])
        else:
            kinds.append(_KINDS[type(entry)])
    return kinds


def _count_links(entries: Sequence[AnyEntry]) -> list[int]:
    """Return how many names each inode has; a directory's are its own two, and "..", of each in it."""
    links = [1] * len(entries)
    for index, entry in enumerate(entries):
        if isinstance(entry, HardLink):
            links[entry.target] += 1
        elif isinstance(entry, Directory):
            links[index] = 2
            if index:
                links[entry.parent] += 1
    return links


def _find_children(entries: Sequence[AnyEntry]) -> dict[int, tuple[int, int]]:
    """Return the range of numbers of every directory's children: they stand side by side."""
    found = {index: (0, 0) for index, entry in enumerate(entries) if isinstance(entry, Directory)}
    first = 1
    while first < len(entries):
        parent = entries[first].parent
        end = first
        while end < len(entries) and entries[end].parent == parent:
            end += 1
        found[parent] = (first, end)
        first = end
    return found
