"""The files of a tree as people see them: paths from "/", the largest, and which are not the same in two. Pure.

Small files lie in packs, which other files share, and the manifest has no digest of each: where two of equal size
are in different packs, somebody has to say what is in them (`small_files.py`). Where nobody can, since a pack is
missing, they count as the same if their times are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec
from glowplug_contracts.trees import (
    AnyEntry,
    Entry,
    File,
    FlatTree,
    HardLink,
    PackedFile,
    Symlink,
    Xattr,
)


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a small file lies: the digest of its pack, its first block there, and its bytes."""

    pack: bytes
    block: int
    size: int


# Says what is at some places, by a digest of it; what it can't say is left out.
Hashed = Callable[[Collection[Place]], Mapping[Place, bytes]]


class Differs(msgspec.Struct, frozen=True):
    """A path that is not the same in two trees, and the sizes there; None where it is not."""

    path: str
    before: int | None
    after: int | None


def largest(tree: FlatTree, count: int) -> list[tuple[str, int]]:
    """Return paths and sizes of the largest files, the largest first."""
    sizes = (
        (entry.size, -number)
        for number, entry in enumerate(tree.entries)
        if isinstance(entry, File | PackedFile)
    )
    found = heapq.nlargest(count, sizes)
    paths = _paths(tree) if found else []
    return [(_text(paths[-number]), size) for size, number in found]


def differing(before: FlatTree | None, after: FlatTree | None, hashed: Hashed) -> Iterator[Differs]:
    """Yield every path that is not the same in both, in order. None is an empty tree."""
    old, new = _Tree(before), _Tree(after)
    asked: set[Place] = set()
    for path in old.numbers.keys() & new.numbers.keys():
        asked.update(old.in_question(path, new))
    contents = hashed(asked) if asked else {}
    for path in sorted({*old.numbers, *new.numbers}):
        if not old.same(path, new, contents):
            yield Differs(_text(path), old.size(path), new.size(path))


class _Tree:
    def __init__(self, tree: FlatTree | None) -> None:
        self._tree = tree
        self._paths = [] if tree is None else _paths(tree)
        self.numbers = {path: number for number, path in enumerate(self._paths)}

    def size(self, path: bytes) -> int | None:
        number = self.numbers.get(path)
        if self._tree is None or number is None:
            return None
        entry = self._tree.entries[number]
        return entry.size if isinstance(entry, File | PackedFile) else 0

    def in_question(self, path: bytes, other: _Tree) -> tuple[Place, ...]:
        """Return where the path's contents lie, if that alone does not say whether they are the same."""
        here, there = self._entry(path), other._entry(path)
        if isinstance(here, PackedFile) and isinstance(there, PackedFile):
            places = self._place(here), other._place(there)
            alike = here.size == there.size and _attributes(here) == _attributes(there)
            return places if alike and places[0] != places[1] else ()
        return ()

    def same(self, path: bytes, other: _Tree, contents: Mapping[Place, bytes]) -> bool:
        here, there = self._entry(path), other._entry(path)
        if here is None or there is None or type(here) is not type(there):
            return False
        if isinstance(here, HardLink) and isinstance(there, HardLink):
            return self._paths[here.target] == other._paths[there.target]
        assert not isinstance(here, HardLink) and not isinstance(there, HardLink)  # noqa: S101, PT018 - types
        same = _attributes(here) == _attributes(there)
        return same and self._same_content(here, there, other, contents)

    def _same_content(
        self, here: Entry, there: Entry, other: _Tree, contents: Mapping[Place, bytes]
    ) -> bool:
        if isinstance(here, Symlink) and isinstance(there, Symlink):
            return here.target == there.target
        if isinstance(here, PackedFile) and isinstance(there, PackedFile):
            places = self._place(here), other._place(there)
            if here.size != there.size or places[0] == places[1]:
                return here.size == there.size
            found = contents.get(places[0]), contents.get(places[1])
            if None not in found:
                return found[0] == found[1]
            return (here.mtime_s, here.mtime_ns) == (there.mtime_s, there.mtime_ns)
        if isinstance(here, File) and isinstance(there, File):
            return here.size == there.size and self._content(here) == other._content(there)
        return True

    def _entry(self, path: bytes) -> AnyEntry | None:
        number = self.numbers.get(path)
        return None if self._tree is None or number is None else self._tree.entries[number]

    def _place(self, entry: PackedFile) -> Place:
        assert self._tree is not None  # noqa: S101 - it has an entry
        return Place(self._tree.packs[entry.pack].digest, entry.block, entry.size)

    def _content(self, entry: File) -> list[tuple[int, bytes]]:
        assert self._tree is not None  # noqa: S101 - it has an entry
        return [
            (run.at + step, self._tree.pieces[run.first + step].digest)
            for run in entry.runs
            for step in range(run.count)
        ]


def _attributes(entry: Entry) -> tuple[int, int, int, tuple[Xattr, ...]]:
    return entry.mode, entry.uid, entry.gid, entry.xattrs


def _paths(tree: FlatTree) -> list[bytes]:
    """Return every entry's path, in their order; the root's is empty."""
    paths: list[bytes] = []
    for entry in tree.entries:
        # A directory stands before what is in it.
        paths.append(paths[entry.parent] + b"/" + entry.name if paths else b"")
    return paths


def _text(path: bytes) -> str:
    return (path or b"/").decode(errors="backslashreplace")
