"""A tree with changes laid over it: what a build step makes of an image's tree. Pure.

Changes are a tree themselves, as an overlay keeps them: whatever was touched, with the directories on the way,
and beside it what is gone and which directories show nothing of what was below. The result shares the base's
objects, so that a step that adds a file stores that file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from glowplug_contracts.tree_rules import check_tree
from glowplug_contracts.trees import (
    AnyEntry,
    Directory,
    File,
    FlatTree,
    HardLink,
    PackedFile,
    Run,
    StoredObject,
)

# Names from the root on.
Path = tuple[bytes, ...]
FOLDER: Final = Directory(0, b"", 0o755, 0, 0, 0, 0, ())
_ROOT: Final = 0


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a tree.

    Attributes:
        tree: what was added or changed; its root has the attributes that the root has now.
        gone: paths that are not there any more.
        bare: directories of `tree` that hide everything that was below them.
        adds_only: directories that were there stay what they were, and only get more in them.
    """

    tree: FlatTree
    gone: Collection[Path] = ()
    bare: Collection[Path] = ()
    adds_only: bool = False


def apply_changes(base: FlatTree, changes: Changes) -> FlatTree:
    """Return the tree that the base has become.

    Raises: InvalidRequestError (request.invalid) where the result breaks a rule of trees.
    """
    root, added = _nodes(base), _nodes(changes.tree)
    for path in changes.gone:
        _remove(root, path)
    bare = frozenset(changes.bare)
    waiting: list[tuple[_Node, _Node, Path]] = [(root, added, ())]
    while waiting:
        there, new, path = waiting.pop()
        if not changes.adds_only:
            there.entry = new.entry
            there.source = new.source
        if path in bare:
            there.children = {}
        for name, child in new.children.items():
            old = there.children.get(name)
            if old is not None and old.is_dir and child.is_dir:
                waiting.append((old, child, (*path, name)))
            else:
                there.children[name] = child
    made = _Emitter().emit(root)
    check_tree(made)
    return made


def pick(
    base: FlatTree, picked: Sequence[tuple[Path, Path]], dress: Callable[[AnyEntry], AnyEntry]
) -> FlatTree:
    """Return a tree that has parts of another one, each at a place of its own: (from, to).

    Directories on the way are made as `FOLDER`. What goes to the place of a directory that was picked before is
    put in it; to `()` goes what is in a directory. Every `from` must be there.

    Args:
        dress: returns an entry as it is to be, given what it was.
    """
    source = _nodes(base)
    _dress(source, dress)
    root = _Node(FOLDER, base)
    for origin, target in picked:
        found = _lookup(source, origin)
        assert found is not None, origin  # noqa: S101 - the caller looked
        at = root
        for name in target[:-1]:
            at = at.children.setdefault(name, _Node(FOLDER, base))
        there = at.children.get(target[-1]) if target else root
        if there is not None and there.is_dir and found.is_dir:
            _lay(there, found)
        elif target:
            at.children[target[-1]] = found
    return _Emitter().emit(root)


class _Node:
    """A file, directory or link; several names may lead to one file."""

    __slots__ = ("children", "entry", "source")

    def __init__(self, entry: AnyEntry, source: FlatTree) -> None:
        self.entry: AnyEntry = entry
        self.source = source
        self.children: dict[bytes, _Node] = {}

    @property
    def is_dir(self) -> bool:
        return isinstance(self.entry, Directory)


def _nodes(tree: FlatTree) -> _Node:
    """Return the root of a tree's nodes."""
    nodes: list[_Node] = []
    for number, entry in enumerate(tree.entries):
        node = nodes[entry.target] if isinstance(entry, HardLink) else _Node(entry, tree)
        nodes.append(node)
        if number != _ROOT:
            nodes[entry.parent].children[entry.name] = node
    return nodes[_ROOT]


def _lookup(root: _Node, path: Path) -> _Node | None:
    at: _Node | None = root
    for name in path:
        at = None if at is None else at.children.get(name)
    return at


def _remove(root: _Node, path: Path) -> None:
    folder = _lookup(root, path[:-1])
    if folder is not None and path:
        folder.children.pop(path[-1], None)


def _dress(root: _Node, dress: Callable[[AnyEntry], AnyEntry]) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        waiting += node.children.values()
        if id(node) not in seen:
            seen.add(id(node))
            node.entry = dress(node.entry)


def _lay(there: _Node, found: _Node) -> None:
    """Put what is in a directory into another one."""
    waiting = [(there, found)]
    while waiting:
        at, new = waiting.pop()
        at.entry = new.entry
        for name, child in new.children.items():
            old = at.children.get(name)
            if old is not None and old.is_dir and child.is_dir:
                waiting.append((old, child))
            else:
                at.children[name] = child


class _Emitter:
    """Writes nodes down in a manifest's order, with the objects that they use in the order of first use."""

    def __init__(self) -> None:
        self._entries: list[AnyEntry] = []
        self._packs: dict[StoredObject, int] = {}
        self._pieces: dict[StoredObject, int] = {}

    def emit(self, root: _Node) -> FlatTree:
        first: dict[int, int] = {}  # a node that is no directory -> its entry
        self._entries.append(msgspec.structs.replace(root.entry, parent=_ROOT, name=b""))
        waiting: list[tuple[int, _Node]] = [(_ROOT, root)]
        for parent, folder in waiting:
            for name, child in sorted(folder.children.items()):
                number = len(self._entries)
                if child.is_dir:
                    waiting.append((number, child))
                elif (target := first.setdefault(id(child), number)) != number:
                    self._entries.append(HardLink(parent, name, target))
                    continue
                self._entries.append(self._entry(child, parent, name))
        return FlatTree(
            entries=tuple(self._entries), packs=tuple(self._packs), pieces=tuple(self._pieces)
        )

    def _entry(self, node: _Node, parent: int, name: bytes) -> AnyEntry:
        entry = node.entry
        assert not isinstance(entry, HardLink)  # noqa: S101 - nodes are what links lead to
        if isinstance(entry, PackedFile):
            stored = node.source.packs[entry.pack]
            pack = self._packs.setdefault(stored, len(self._packs))
            return msgspec.structs.replace(entry, parent=parent, name=name, pack=pack)
        if isinstance(entry, File):
            runs = self._runs(entry, node.source.pieces)
            return msgspec.structs.replace(entry, parent=parent, name=name, runs=runs)
        return msgspec.structs.replace(entry, parent=parent, name=name)

    def _runs(self, entry: File, pieces: Sequence[StoredObject]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for run in entry.runs:
            for at in range(run.count):
                number = run.at + at
                stored = pieces[run.first + at]
                first = self._pieces.setdefault(stored, len(self._pieces))
                last = runs[-1] if runs else Run(-1, -1, 0)
                if last.count and (last.at + last.count, last.first + last.count) == (
                    number,
                    first,
                ):
                    runs[-1] = Run(last.at, last.first, last.count + 1)
                else:
                    runs.append(Run(number, first, 1))
        return tuple(runs)
