"""A directory on disk into a flattened manifest.

The first half of storing an image: everything is read once and named. `flat_objects.py` then gives the bytes of
those objects that a store lacks. Blocks: callers run it in threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from glowplug_contracts.manifests import ENTRIES_MAX
from glowplug_contracts.packing import Pack, SmallFile, plan_packs
from glowplug_contracts.tree_rules import check_tree
from glowplug_contracts.trees import (
    PACKED_FILE_BYTES_MAX,
    PIECE_BYTES,
    AnyEntry,
    Directory,
    Fifo,
    File,
    FlatTree,
    HardLink,
    PackedFile,
    Run,
    Socket,
    StoredObject,
    Symlink,
    Xattr,
)

from glowplug_worker.images.descend import (
    Parts,
    digest_of,
    open_directory,
    open_entry,
    open_root,
    read_exactly,
    unfit,
)
from glowplug_worker.images.flat_objects import Flattened, pack_bytes

_ZEROS = bytes(PIECE_BYTES)
_LINK_MODE = 0o777


class Lens(Protocol):
    """How what is on disk is to be understood."""

    def skips(self, parts: Parts, facts: os.stat_result) -> bool:
        """Return whether a path is no part of the tree."""

    def owner(self, parts: Parts, facts: os.stat_result) -> tuple[int, int]:
        """Return the user and the group that a path belongs to."""

    def xattrs(self, parts: Parts, found: tuple[Xattr, ...]) -> tuple[Xattr, ...]:
        """Return the attributes that a path has."""


class _Plain:
    """As it is."""

    def skips(self, parts: Parts, facts: os.stat_result) -> bool:  # noqa: ARG002
        return False

    def owner(self, parts: Parts, facts: os.stat_result) -> tuple[int, int]:  # noqa: ARG002
        return facts.st_uid, facts.st_gid

    def xattrs(self, parts: Parts, found: tuple[Xattr, ...]) -> tuple[Xattr, ...]:  # noqa: ARG002
        return found


_AS_IT_IS: Lens = _Plain()


def flatten(root: Path, known: Sequence[Pack] = (), lens: Lens = _AS_IT_IS) -> Flattened:
    """Return the manifest of everything below `root`, with the root's own attributes.

    Args:
        root: a directory.
        known: packs that may be used again, with their digests; see `plan_packs`.
        lens: how it is to be understood; usually as it is.

    Raises: InvalidRequestError (request.invalid) naming what a manifest can't hold: a device, a name or an
        attribute outside its rules, or what changed while it was read. OSError if something can't be read,
        or is no more.
    """
    with open_root(root) as descriptor:
        reader = _Reader(descriptor, lens)
        reader.read()
        return reader.finish(known)


class _Reader:
    """Walks one tree in the order of its manifest and collects entries, contents and names of objects."""

    def __init__(self, root: int, lens: Lens) -> None:
        self._root = root
        self._lens = lens
        self._entries: list[AnyEntry] = []
        self._paths: list[Parts] = []
        self._inodes: dict[tuple[int, int], int] = {}
        # Entries of small files, which get their packs when all of them are known.
        self._small: dict[int, SmallFile] = {}
        self._small_paths: dict[bytes, Parts] = {}
        self._pieces: dict[bytes, int] = {}
        self._piece_list: list[StoredObject] = []
        self._piece_places: list[tuple[Parts, int]] = []

    def read(self) -> None:
        """Read the tree, directory by directory, the way entries are ordered."""
        facts = os.fstat(self._root)
        self._add((), Directory(0, b"", *self._about(facts, (), _xattrs(self._root, ()))))
        at = 0
        while at < len(self._entries):
            if isinstance(self._entries[at], Directory):
                self._read_directory(at)
            at += 1

    def finish(self, known: Sequence[Pack]) -> Flattened:
        """Name the packs; return it all, checked."""
        planned = plan_packs(list(self._small.values()), known)
        places: dict[bytes, tuple[Pack, int]] = {}
        for pack in map(self._named, planned):
            for member, block in pack.blocks():
                places.setdefault(member.digest, (pack, block))
        # By digest: a file may hold, byte by byte, what a pack of other files does.
        packs: dict[bytes, Pack] = {}
        numbers: dict[bytes, int] = {}
        for index, small in self._small.items():
            pack, block = places[small.digest]
            packs.setdefault(pack.digest, pack)
            number = numbers.setdefault(pack.digest, len(numbers))
            entry = self._entries[index]
            assert isinstance(entry, PackedFile)  # noqa: S101 - what `_small` is for
            self._entries[index] = msgspec.structs.replace(entry, pack=number, block=block)
        tree = FlatTree(
            entries=tuple(self._entries),
            packs=tuple(StoredObject(pack.digest, pack.size) for pack in packs.values()),
            pieces=tuple(self._piece_list),
        )
        check_tree(tree)
        return Flattened(tree, tuple(packs.values()), self._small_paths, tuple(self._piece_places))

    def _named(self, pack: Pack) -> Pack:
        """Return the pack with its digest; a new one's files are read again for it."""
        if pack.digest:
            return pack
        data = pack_bytes(self._root, pack, self._small_paths)
        return msgspec.structs.replace(pack, digest=digest_of(data))

    def _add(self, parts: Parts, entry: AnyEntry) -> None:
        self._entries.append(entry)
        self._paths.append(parts)
        if len(self._entries) > ENTRIES_MAX:
            raise unfit(parts, f"is the one too many: a tree may have {ENTRIES_MAX} entries")

    def _read_directory(self, at: int) -> None:
        parts = self._paths[at]
        with open_directory(self._root, parts) as folder:
            for name in sorted(os.fsencode(name) for name in os.listdir(folder)):  # noqa: PTH208 - a descriptor
                self._read_entry(at, folder, (*parts, name))

    def _read_entry(self, parent: int, folder: int, parts: Parts) -> None:
        name = parts[-1]
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if self._lens.skips(parts, facts):
            return
        inode = (facts.st_dev, facts.st_ino)
        if not stat.S_ISDIR(facts.st_mode) and inode in self._inodes:
            self._add(parts, HardLink(parent, name, self._inodes[inode]))
            return
        if facts.st_nlink > 1:
            self._inodes[inode] = len(self._entries)
        if stat.S_ISREG(facts.st_mode):
            self._read_file(parent, folder, parts)
            return
        about = self._about(facts, parts, _xattrs_of(folder, parts))
        if stat.S_ISDIR(facts.st_mode):
            self._add(parts, Directory(parent, name, *about))
        elif stat.S_ISLNK(facts.st_mode):
            target = os.readlink(name, dir_fd=folder)
            self._add(parts, Symlink(parent, name, _LINK_MODE, *about[1:], os.fsencode(target)))
        elif stat.S_ISFIFO(facts.st_mode):
            self._add(parts, Fifo(parent, name, *about))
        elif stat.S_ISSOCK(facts.st_mode):
            self._add(parts, Socket(parent, name, *about))
        else:
            raise unfit(parts, "is a device; a container gets its devices from the platform")

    def _read_file(self, parent: int, folder: int, parts: Parts) -> None:
        name = parts[-1]
        with open_entry(folder, name) as file:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise unfit(parts, "changed while it was being read")
            about = self._about(facts, parts, _xattrs(file, parts))
            size = facts.st_size
            if size > PACKED_FILE_BYTES_MAX:
                runs = self._read_pieces(file, parts, size)
                self._add(parts, File(parent, name, *about, size, runs))
                return
            data = read_exactly(file, parts, size, 0)
        if data == _ZEROS[:size]:
            self._add(parts, File(parent, name, *about, size, ()))
            return
        small = SmallFile(digest_of(data), size)
        self._small[len(self._entries)] = small
        self._small_paths.setdefault(small.digest, parts)
        self._add(parts, PackedFile(parent, name, *about, size, 0, 0))

    def _about(
        self, facts: os.stat_result, parts: Parts, found: tuple[Xattr, ...]
    ) -> tuple[int, int, int, int, int, tuple[Xattr, ...]]:
        seconds, nanoseconds = divmod(facts.st_mtime_ns, 1_000_000_000)
        uid, gid = self._lens.owner(parts, facts)
        xattrs = self._lens.xattrs(parts, found)
        return (stat.S_IMODE(facts.st_mode), uid, gid, seconds, nanoseconds, xattrs)

    def _read_pieces(self, file: int, parts: Parts, size: int) -> tuple[Run, ...]:
        runs: list[Run] = []
        for number in _pieces_with_data(file, size):
            offset = number * PIECE_BYTES
            data = read_exactly(file, parts, min(PIECE_BYTES, size - offset), offset)
            if data == (_ZEROS if len(data) == PIECE_BYTES else bytes(len(data))):
                continue
            first = self._piece(data, parts, offset)
            last = runs[-1] if runs else Run(0, 0, 0)
            if runs and last.at + last.count == number and last.first + last.count == first:
                runs[-1] = Run(last.at, last.first, last.count + 1)
            else:
                runs.append(Run(number, first, 1))
        return tuple(runs)

    def _piece(self, data: bytes, parts: Parts, offset: int) -> int:
        digest = digest_of(data)
        number = self._pieces.setdefault(digest, len(self._pieces))
        if number == len(self._piece_list):
            self._piece_list.append(StoredObject(digest, len(data)))
            self._piece_places.append((parts, offset))
        return number


def _pieces_with_data(file: int, size: int) -> Iterator[int]:
    """Yield the numbers of those pieces that are not wholly in holes of the file system."""
    at = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            raise
        number = at // PIECE_BYTES
        if at < size:
            yield number
        at = (number + 1) * PIECE_BYTES


def _xattrs_of(folder: int, parts: Parts) -> tuple[Xattr, ...]:
    """Return the attributes of what can't be opened without following it: by its path, not through it."""
    return _xattrs(b"/proc/self/fd/%d/%s" % (folder, parts[-1]), parts)


def _xattrs(what: int | bytes, parts: Parts) -> tuple[Xattr, ...]:
    follow = isinstance(what, int)
    try:
        names = sorted(os.fsencode(name) for name in os.listxattr(what, follow_symlinks=follow))
        return tuple(Xattr(name, os.getxattr(what, name, follow_symlinks=follow)) for name in names)
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return ()
        raise unfit(parts, f"does not let its attributes be read: {err}") from err
