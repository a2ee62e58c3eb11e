"""Writes a flattened tree to a directory: content as its objects arrive, attributes at the end.

Nobody else can reach the directory meanwhile, every parent is a directory that was made here, and no link is
ever followed. As root everything is kept as the manifest says; an ordinary user can't give files away, and
what of it was not kept is counted. The manifest has been checked (`decode_tree`). Blocks.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame
from glowplug_contracts.trees import (
    BLOCK_BYTES,
    PIECE_BYTES,
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

from glowplug_worker.images.objects import raw_form

_CLOSED: Final = 0o700
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What the system may say to an attribute that it does not keep.
_REFUSALS: Final = (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EINVAL)


class TreeExtractor:
    """Makes `root` and everything in it; call `write` with all objects, then `finish`.

    Attributes:
        objects: what is needed, with sizes.
    """

    def __init__(self, root: Path, tree: FlatTree) -> None:
        self._tree = tree
        self._paths = _paths(tree.entries)
        # By object: (number of the entry, where in the file, where in the object, how much).
        self._places: dict[Digest, list[tuple[int, int, int, int]]] = {}
        self._lock = threading.Lock()
        self._not_kept: Counter[str] = Counter()
        self._is_root = os.geteuid() == 0
        sized = [(Digest(each.digest.hex()), each.size) for each in (*tree.packs, *tree.pieces)]
        self.objects: Mapping[Digest, int] = dict(sized)
        root.mkdir(mode=_CLOSED)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptor back."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def write(self, frames: Sequence[ChunkFrame]) -> None:
        """Verify objects and put them wherever the tree has them. Raises: ContractError."""
        for frame in frames:
            data = raw_form(frame.digest, frame.stored or b"")
            if len(data) != self.objects[frame.digest]:
                raise ContractError(
                    "image.corrupt", f"object {frame.digest} is {len(data)} bytes long"
                )
            with self._lock:
                places = self._places.pop(frame.digest, [])
            for number, offset, at, size in places:
                file = os.open(self._paths[number], _OPEN, dir_fd=self._root)
                try:
                    _write(file, memoryview(data)[at : at + size], offset)
                finally:
                    os.close(file)

    def finish(self) -> dict[str, int]:
        """Make the other names of files, and give everything its attributes, deepest first.

        Returns: what was not kept, and how often.
        """
        assert not self._places, f"{len(self._places)} objects lack"  # noqa: S101 - the fetcher's bug
        for number, entry in enumerate(self._tree.entries):
            if isinstance(entry, HardLink):
                os.link(
                    self._paths[entry.target],
                    self._paths[number],
                    src_dir_fd=self._root,
                    dst_dir_fd=self._root,
                    follow_symlinks=False,
                )
        for number in range(len(self._tree.entries) - 1, -1, -1):
            entry = self._tree.entries[number]
            if isinstance(entry, Entry):
                self._give(number, entry)
        return dict(self._not_kept)

    def _make(self) -> None:
        """Make directories, and everything else without content, attributes and other names."""
        for number, entry in enumerate(self._tree.entries):
            path = self._paths[number]
            if isinstance(entry, Directory):
                if number:
                    os.mkdir(path, _CLOSED, dir_fd=self._root)
            elif isinstance(entry, Symlink):
                os.symlink(entry.target, path, dir_fd=self._root)
            elif isinstance(entry, Fifo):
                os.mkfifo(path, 0o600, dir_fd=self._root)
            elif isinstance(entry, Socket):
                os.mknod(path, stat.S_IFSOCK | 0o600, dir_fd=self._root)
            elif isinstance(entry, PackedFile | File):
                file = os.open(path, _NEW, 0o600, dir_fd=self._root)
                try:
                    os.ftruncate(file, entry.size)
                finally:
                    os.close(file)
                self._note(number, entry)

    def _note(self, number: int, entry: PackedFile | File) -> None:
        if isinstance(entry, PackedFile):
            pack = Digest(self._tree.packs[entry.pack].digest.hex())
            place = (number, 0, entry.block * BLOCK_BYTES, entry.size)
            self._places.setdefault(pack, []).append(place)
            return
        for run in entry.runs:
            for step in range(run.count):
                piece = self._tree.pieces[run.first + step]
                place = (number, (run.at + step) * PIECE_BYTES, 0, piece.size)
                self._places.setdefault(Digest(piece.digest.hex()), []).append(place)

    def _give(self, number: int, entry: Entry) -> None:
        """Give owner, mode, attributes and time; a change of owner takes away bits and capabilities."""
        path = self._paths[number] or b"."
        if self._is_root:
            os.chown(path, entry.uid, entry.gid, dir_fd=self._root, follow_symlinks=False)
        elif (entry.uid, entry.gid) != (os.geteuid(), os.getegid()):
            self._not_kept["owner"] += 1
        if entry.xattrs:  # before the mode, which may forbid it to an ordinary user
            self._give_xattrs(path, entry)
        if not isinstance(entry, Symlink):
            os.chmod(path, entry.mode, dir_fd=self._root)
        when = entry.mtime_s * 1_000_000_000 + entry.mtime_ns
        try:
            os.utime(path, ns=(when, when), dir_fd=self._root, follow_symlinks=False)
        except OverflowError:
            self._not_kept["time"] += 1

    def _give_xattrs(self, path: bytes, entry: Entry) -> None:
        # There is no call that takes a name below a descriptor; the name goes by way of its directory.
        folder, _, name = path.rpartition(b"/")
        parent = os.open(folder or b".", _READ | os.O_DIRECTORY, dir_fd=self._root)
        try:
            where = b"/proc/self/fd/%d/%s" % (parent, name)
            for each in entry.xattrs:
                try:
                    os.setxattr(where, each.name, each.value, follow_symlinks=False)
                except OSError as err:
                    if err.errno not in _REFUSALS:
                        raise
                    self._not_kept[each.name.decode("latin-1")] += 1
        finally:
            os.close(parent)


def _paths(entries: Sequence[AnyEntry]) -> list[bytes]:
    """Return every entry's path from the root; the root's own is empty."""
    paths = [b""]
    for entry in entries[1:]:
        above = paths[entry.parent]
        paths.append(above + b"/" + entry.name if above else entry.name)
    return paths


def _write(file: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
