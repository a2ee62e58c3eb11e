"""A directory on disk into a flattened manifest, and its objects' bytes out of it.

The first half of storing an image: `flatten` reads a tree once and names everything in it, `read_object`
then gives the bytes of those objects that a store lacks. Like `tree.py` it may read what processes of a build
still change, so every step is taken from a descriptor of the directory before it, no link is followed,
and what is read twice is compared. All of it blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import blake3
import msgspec
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.manifests import ENTRIES_MAX
from glowplug_contracts.tree_rules import check_tree
from glowplug_contracts.trees import (
    BLOCK_BYTES,
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

from glowplug_worker.images.packing import Pack, SmallFile, plan_packs

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_DIR = _READ | os.O_DIRECTORY
_ZEROS = bytes(PIECE_BYTES)
_LINK_MODE = 0o777

Parts = tuple[bytes, ...]


class Flattened(msgspec.Struct, frozen=True):
    """A tree, and where the bytes of its objects are read: for a pack its files, for a piece one file."""

    tree: FlatTree
    packs: tuple[Pack, ...]
    pack_paths: dict[bytes, Parts]
    piece_places: tuple[tuple[Parts, int], ...]


def flatten(root: Path, known: Sequence[Pack] = ()) -> Flattened:
    """Return the manifest of everything below `root`, with the root's own attributes.

    Args:
        root: a directory.
        known: packs that may be used again, with their digests; see `plan_packs`.

    Raises: InvalidRequestError (request.invalid) naming what a manifest can't hold: a device, a name or an
        attribute outside its rules, or what changed while it was read.
    """
    with _opened(root) as descriptor:
        reader = _Reader(descriptor)
        reader.read()
        return reader.finish(known)


def read_pack(root: Path, flattened: Flattened, number: int) -> bytes:
    """Return the bytes of a pack, read again. Raises: InvalidRequestError if a file changed."""
    with _opened(root) as descriptor:
        return _pack_bytes(descriptor, flattened.packs[number], flattened.pack_paths)


def read_piece(root: Path, flattened: Flattened, number: int) -> bytes:
    """Return the bytes of a piece, read again. Raises: InvalidRequestError if the file changed."""
    parts, offset = flattened.piece_places[number]
    wanted = flattened.tree.pieces[number]
    with _opened(root) as descriptor, _file(descriptor, parts) as file:
        data = os.pread(file, wanted.size, offset)
    if blake3.blake3(data).digest() != wanted.digest:
        raise _unfit(parts, "changed while it was being stored")
    return data


class _Reader:
    """Walks one tree in the order of its manifest and collects entries, contents and names of objects."""

    def __init__(self, root: int) -> None:
        self._root = root
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
        self._add((), Directory(0, b"", *_attributes(facts, _xattrs(self._root, ()))))
        at = 0
        while at < len(self._entries):
            if isinstance(self._entries[at], Directory):
                self._read_directory(at)
            at += 1

    def finish(self, known: Sequence[Pack]) -> Flattened:
        """Name the packs; return it all, checked."""
        packs = plan_packs(list(self._small.values()), known)
        place = {
            member.digest: (pack, block)
            for pack in reversed(packs)
            for member, block in pack.blocks()
        }
        used: dict[int, int] = {}
        ordered: list[Pack] = []
        for index, small in self._small.items():
            pack, block = place[small.digest]
            if id(pack) not in used:
                used[id(pack)] = len(ordered)
                ordered.append(pack)
            entry = self._entries[index]
            assert isinstance(entry, PackedFile)  # noqa: S101 - what `_small` is for
            self._entries[index] = msgspec.structs.replace(entry, pack=used[id(pack)], block=block)
        named = [
            pack
            if pack.digest
            else msgspec.structs.replace(
                pack, digest=_digest(_pack_bytes(self._root, pack, self._small_paths))
            )
            for pack in ordered
        ]
        tree = FlatTree(
            entries=tuple(self._entries),
            packs=tuple(StoredObject(pack.digest, pack.size) for pack in named),
            pieces=tuple(self._piece_list),
        )
        check_tree(tree)
        return Flattened(tree, tuple(named), self._small_paths, tuple(self._piece_places))

    def _add(self, parts: Parts, entry: AnyEntry) -> None:
        self._entries.append(entry)
        self._paths.append(parts)
        if len(self._entries) > ENTRIES_MAX:
            raise _unfit(parts, f"is the one too many: a tree may have {ENTRIES_MAX} entries")

    def _read_directory(self, at: int) -> None:
        parts = self._paths[at]
        with _directory(self._root, parts) as folder:
            for name in sorted(os.fsencode(name) for name in os.listdir(folder)):  # noqa: PTH208 - a descriptor
                self._read_entry(at, folder, (*parts, name))

    def _read_entry(self, parent: int, folder: int, parts: Parts) -> None:
        name = parts[-1]
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        inode = (facts.st_dev, facts.st_ino)
        if not stat.S_ISDIR(facts.st_mode) and inode in self._inodes:
            self._add(parts, HardLink(parent, name, self._inodes[inode]))
            return
        if facts.st_nlink > 1:
            self._inodes[inode] = len(self._entries)
        if stat.S_ISREG(facts.st_mode):
            self._read_file(parent, folder, parts)
            return
        about = _attributes(facts, _xattrs_of(folder, parts))
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
            raise _unfit(parts, "is a device; a container gets its devices from the platform")

    def _read_file(self, parent: int, folder: int, parts: Parts) -> None:
        name = parts[-1]
        with _at(folder, name, _READ) as file:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise _unfit(parts, "changed while it was being read")
            about = _attributes(facts, _xattrs(file, parts))
            size = facts.st_size
            if size > PACKED_FILE_BYTES_MAX:
                runs = self._read_pieces(file, parts, size)
                self._add(parts, File(parent, name, *about, size, runs))
                return
            data = _pread(file, parts, size, 0)
        if data == _ZEROS[:size]:
            self._add(parts, File(parent, name, *about, size, ()))
            return
        small = SmallFile(_digest(data), size)
        self._small[len(self._entries)] = small
        self._small_paths.setdefault(small.digest, parts)
        self._add(parts, PackedFile(parent, name, *about, size, 0, 0))

    def _read_pieces(self, file: int, parts: Parts, size: int) -> tuple[Run, ...]:
        runs: list[Run] = []
        for number in _pieces_with_data(file, size):
            offset = number * PIECE_BYTES
            data = _pread(file, parts, min(PIECE_BYTES, size - offset), offset)
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
        digest = _digest(data)
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


def _pack_bytes(root: int, pack: Pack, paths: dict[bytes, Parts]) -> bytes:
    data = bytearray()
    for member in pack.members:
        data += bytes(-len(data) % BLOCK_BYTES)
        parts = paths.get(member.digest)
        if parts is None:
            raise _unfit((), "is no source of a pack of another tree; ask the store for it")
        with _file(root, parts) as file:
            content = _pread(file, parts, member.size, 0)
        if _digest(content) != member.digest:
            raise _unfit(parts, "changed while it was being stored")
        data += content
    return bytes(data)


def _attributes(
    facts: os.stat_result, xattrs: tuple[Xattr, ...]
) -> tuple[int, int, int, int, int, tuple[Xattr, ...]]:
    seconds, nanoseconds = divmod(facts.st_mtime_ns, 1_000_000_000)
    mode = stat.S_IMODE(facts.st_mode)
    return (mode, facts.st_uid, facts.st_gid, seconds, nanoseconds, xattrs)


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
        raise _unfit(parts, f"does not let its attributes be read: {err}") from err


def _pread(file: int, parts: Parts, size: int, offset: int) -> bytes:
    data = os.pread(file, size, offset)
    if len(data) != size:
        raise _unfit(parts, "changed while it was being read")
    return data


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[int]:
    descriptor = os.open(root, _READ_DIR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _directory(root: int, parts: Parts) -> Iterator[int]:
    """Open a directory, one step after the other."""
    with contextlib.ExitStack() as stack:
        descriptor = os.open(".", _READ_DIR, dir_fd=root)
        stack.callback(os.close, descriptor)
        for part in parts:
            descriptor = os.open(part, _READ_DIR, dir_fd=descriptor)
            stack.callback(os.close, descriptor)
        yield descriptor


@contextlib.contextmanager
def _file(root: int, parts: Parts) -> Iterator[int]:
    with _directory(root, parts[:-1]) as folder, _at(folder, parts[-1], _READ) as file:
        yield file


@contextlib.contextmanager
def _at(folder: int, name: bytes, flags: int) -> Iterator[int]:
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def _unfit(parts: Parts, why: str) -> InvalidRequestError:
    return InvalidRequestError("request.invalid", f"path {b'/'.join(parts)[:200]!r} {why}")
