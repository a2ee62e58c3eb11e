"""Paths of a tree, followed through its links and never out of it. Pure."""

from __future__ import annotations

import fnmatch
from typing import Final

from glowplug_contracts.tree_changes import Path
from glowplug_contracts.trees import AnyEntry, Directory, FlatTree, HardLink, Symlink

HOPS_MAX: Final = 40


class TreePaths:
    """Looks paths up in a tree."""

    def __init__(self, tree: FlatTree) -> None:
        self._entries = tree.entries
        self._children: dict[int, dict[bytes, int]] = {}
        for number, entry in enumerate(tree.entries):
            if number:
                self._children.setdefault(entry.parent, {})[entry.name] = number

    def resolve(self, path: bytes) -> tuple[Path, AnyEntry | None]:
        """Return where a path leads, links followed, and what is there; None for what would have to be made.

        Raises: ValueError for one that leads through too many links, or through a file.
        """
        names: list[bytes] = []
        trail = [0]
        todo = _parts(path)
        hops = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del names[-1:]
                del trail[max(1, len(trail) - 1) :]
                continue
            number = self._children.get(trail[-1], {}).get(name) if trail[-1] >= 0 else None
            entry = None if number is None else self._entries[number]
            if isinstance(entry, Symlink):
                hops += 1
                if hops > HOPS_MAX:
                    raise ValueError("it leads through too many links")
                if entry.target.startswith(b"/"):
                    names, trail = [], [0]
                todo += _parts(entry.target)
                continue
            if entry is not None and todo and not isinstance(entry, Directory):
                raise ValueError(f"{b'/'.join([*names, name])[:200]!r} is no directory")
            names.append(name)
            trail.append(-1 if number is None else number)
        number = trail[-1]
        return tuple(names), self._entries[number] if number >= 0 else None

    def find(self, path: bytes) -> int | None:
        """Return which entry a path leads to, links followed; None for none."""
        try:
            names, entry = self.resolve(path)
        except ValueError:
            return None
        return None if entry is None else self._number(names)

    def matches(self, pattern: bytes) -> list[tuple[Path, AnyEntry]]:
        """Return what a path with `*`, `?` and `[…]` in its names matches, sorted; links at its end stay links.

        Raises: ValueError.
        """
        found: list[Path] = [()]
        for part in reversed(_parts(pattern)):
            found = [(*folder, name) for folder in found for name in self._named(folder, part)]
        return [(path, self._at(path)) for path in sorted(found)]

    def _named(self, folder: Path, part: bytes) -> list[bytes]:
        real, entry = self.resolve(b"/".join(folder)) if folder else ((), self._entries[0])
        if not isinstance(entry, Directory):
            return []
        number = self._number(real)
        names = self._children.get(number, {})
        if not any(sign in part for sign in b"*?["):
            return [part] if part in names else []
        return [name for name in names if fnmatch.fnmatchcase(name, part)]

    def _at(self, path: Path) -> AnyEntry:
        if not path:
            return self._entries[0]
        real, _ = self.resolve(b"/".join(path[:-1]))
        entry = self._entries[self._children[self._number(real)][path[-1]]]
        return self._entries[entry.target] if isinstance(entry, HardLink) else entry

    def real(self, path: Path) -> Path:
        """Return the path of what is named by one whose directories may be links."""
        return (*self.resolve(b"/".join(path[:-1]))[0], path[-1]) if path else ()

    def _number(self, path: Path) -> int:
        number = 0
        for name in path:
            number = self._children[number][name]
        return number


def _parts(path: bytes) -> list[bytes]:
    """Return the names of a path, the last first."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
