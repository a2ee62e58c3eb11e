"""Layers laid over one another: a tree that changes are applied to, one by one. A pure machine.

It does what an overlay of the layers shows, which is what Docker, containerd and Podman run:
a directory over a directory keeps what is in it and takes the new attributes; anything else replaces
what was there; whiteouts and opaque directories hide what lower layers brought, wherever in their
own layer they stand. Hard links share one node. A path that leads through a symbolic link of its own layer
goes where that leads, within the root; one of a lower layer is hidden by a directory.

Invariants (`check`): T1 only directories have children, each in one place; T2 names are what paths may hold;
T3 every node lies in a layer that was begun. Cost: O(path) a change, whiteouts O(what they remove).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from glowplug_imagecache.layers.bounds import Meter, refused
from glowplug_imagecache.layers.members import (
    Change,
    LeftOut,
    LinkTo,
    Opaque,
    Path,
    Put,
    Whiteout,
)

# As the kernel's limit of links in one path.
HOPS_MAX: Final = 40
IMPLIED: Final = Put(path=(), kind="dir")


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """A file, directory or link; several paths may lead to one file.

    Attributes:
        about: what it is; `path` in it is where it was put.
        children: of a directory.
        fresh: names in it that this layer (`fresh_in`) set (True) or only went through (False).
        bare_in: the layer that removed what was below it from lower ones.
    """

    about: Put
    children: dict[bytes, Node] = dataclasses.field(default_factory=dict)
    fresh: dict[bytes, bool] = dataclasses.field(default_factory=dict)
    fresh_in: int = 0
    bare_in: int = 0

    @property
    def is_dir(self) -> bool:
        """Return whether it may have children."""
        return self.about.kind == "dir"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A path of the finished tree.

    Attributes:
        same_as: the first path of the same file, in the order of `Tree.entries`; None for itself.
        links: paths that lead to it.
    """

    path: Path
    about: Put
    same_as: Path | None = None
    links: int = 1


class Tree:
    """What an image's root directory holds. Layers are applied lowest first."""

    def __init__(self, meter: Meter) -> None:
        self.left_out: dict[str, int] = {}  # reason -> how often
        self._meter = meter
        self._root = Node(IMPLIED)
        self._layer = 0

    def begin_layer(self) -> None:
        """Begin the next layer: what was there until now is below it."""
        self._layer += 1

    def apply(self, change: Change) -> None:
        """Change the tree.

        Raises: InvalidRequestError (layer.refused, layer.too_large); the tree is of no use then.
        """
        assert self._layer, "begin_layer comes first"  # noqa: S101 - the caller's duty
        self._meter.entries()
        if isinstance(change, Put):
            self._meter.held(held_bytes(change))
            self._put(change)
        elif isinstance(change, LinkTo):
            self._link(change)
        elif isinstance(change, Whiteout):
            self._white_out(change)
        elif isinstance(change, Opaque):
            folder = self._descend(change.path, change.path, make=False)
            if folder is not None:
                self._bare(folder)
        else:
            self._leave_out(change)

    def entries(self) -> Iterator[Entry]:
        """Yield every path but the root's, parents first, names in the order of their bytes."""
        counts: dict[Node, int] = {}
        for _, node in self._walk():
            counts[node] = counts.get(node, 0) + 1
        first: dict[Node, Path] = {}
        for path, node in self._walk():
            same_as = first.get(node)
            if counts[node] > 1:
                first.setdefault(node, path)
            yield Entry(path, node.about, same_as, counts[node])

    @property
    def root(self) -> Put:
        """Return what the root directory is."""
        return self._root.about

    def check(self) -> None:
        """Assert every invariant. O(tree)."""
        seen: set[int] = set()
        for path, node in self._walk():
            assert node.is_dir or not node.children, ("T1", path)  # noqa: S101
            assert not node.is_dir or id(node) not in seen, ("T1", path)  # noqa: S101
            assert path[-1] not in (b"", b".", b"..") and b"/" not in path[-1], ("T2", path)  # noqa: S101, PT018
            assert node.fresh_in <= self._layer >= node.bare_in, ("T3", path)  # noqa: S101
            seen.add(id(node))

    def _walk(self) -> Iterator[tuple[Path, Node]]:
        waiting: list[tuple[Path, Node]] = [((), self._root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                yield path, node
            waiting += [
                ((*path, name), node.children[name]) for name in sorted(node.children, reverse=True)
            ]

    def _put(self, put: Put) -> None:
        if not put.path:
            self._root.about = put
            return
        folder = self._parent(put.path)
        name = put.path[-1]
        there = folder.children.get(name)
        if there is not None and there.is_dir and put.kind == "dir":
            there.about = put
        else:
            folder.children[name] = Node(put)
        self._mark(folder, name, is_set=True)

    def _link(self, link: LinkTo) -> None:
        if not link.path or not link.target:
            raise refused(b"/".join(link.path), "is a hard link from or to the image's root")
        target = self._find(link.target)
        if target is None:
            raise refused(
                b"/".join(link.path), f"is a hard link to {_text(link.target)}, which is not there"
            )
        if target.is_dir:
            raise refused(
                b"/".join(link.path), f"is a hard link to {_text(link.target)}, a directory"
            )
        folder = self._parent(link.path)
        folder.children[link.path[-1]] = target
        self._mark(folder, link.path[-1], is_set=True)

    def _white_out(self, whiteout: Whiteout) -> None:
        folder = self._find(whiteout.path[:-1])
        name = whiteout.path[-1]
        there = folder.children.get(name) if folder is not None else None
        if folder is None or there is None:
            return
        mark = self._marks(folder).get(name)
        if mark is None:
            del folder.children[name]
        elif there.is_dir:
            self._bare(there)
            if mark is False:
                there.about = _implied(there.about.path)

    def _leave_out(self, left_out: LeftOut) -> None:
        self.left_out[left_out.why] = self.left_out.get(left_out.why, 0) + 1

    def _bare(self, folder: Node) -> None:
        """Remove what lower layers have below a directory. Once a layer is enough: nothing comes back."""
        waiting = [folder]
        while waiting:
            node = waiting.pop()
            if node.bare_in == self._layer:
                continue
            node.bare_in = self._layer
            marks = self._marks(node)
            node.children = {name: child for name, child in node.children.items() if name in marks}
            for name, child in node.children.items():
                if child.is_dir:
                    waiting.append(child)
                    if not marks[name]:
                        child.about = _implied(child.about.path)

    def _parent(self, path: Path) -> Node:
        """Return the directory in which a path is; what lacks on the way is made, as implied."""
        return self._descend(path[:-1], path, make=True) or self._root

    def _find(self, path: Path) -> Node | None:
        """Return what is at a path; a link at its end is not followed."""
        folder = self._descend(path[:-1], path, make=False)
        if folder is None or not path:
            return folder
        return folder.children.get(path[-1]) if folder.is_dir else None

    def _descend(self, folders: Path, path: Path, *, make: bool) -> Node | None:
        """Return the directory at `folders`, following links of this layer; None if it is not there."""
        trail: list[Node] = [self._root]
        todo = list(reversed(folders))
        hops = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                if len(trail) == 1:
                    raise refused(b"/".join(path), "leads out of the image through a link")
                trail.pop()
            elif (target := self._fresh_link(trail[-1], name)) is not None:
                hops += 1
                if hops > HOPS_MAX:
                    raise refused(b"/".join(path), f"leads through over {HOPS_MAX} links")
                if target.startswith(b"/"):
                    del trail[1:]
                parts = [part for part in target.split(b"/") if part not in (b"", b".")]
                # Short paths through long links are work too, and it must end.
                self._meter.entries(len(parts))
                todo += reversed(parts)
            elif (child := self._folder(trail[-1], name, path, make=make)) is not None:
                trail.append(child)
            else:
                return None
            self._meter.depth(len(trail) - 1)
        return trail[-1]

    def _fresh_link(self, folder: Node, name: bytes) -> bytes | None:
        """Return where a link of this layer leads; None for anything else."""
        child = folder.children.get(name)
        if child is None or child.about.kind != "link" or name not in self._marks(folder):
            return None
        return child.about.target

    def _folder(self, folder: Node, name: bytes, path: Path, *, make: bool) -> Node | None:
        """Return the directory `name`; where it lacks, or a lower layer has something else, make it."""
        child = folder.children.get(name)
        if child is None or not child.is_dir:
            if not make:
                return None
            if name in self._marks(folder):
                raise refused(b"/".join(path), f"is below {_text((name,))}, which is no directory")
            self._meter.entries()
            child = folder.children[name] = Node(_implied((*folder.about.path, name)))
        if make:
            self._mark(folder, name, is_set=False)
        return child

    def _marks(self, folder: Node) -> dict[bytes, bool]:
        """Return what this layer did in a directory."""
        if folder.fresh_in != self._layer:
            folder.fresh_in, folder.fresh = self._layer, {}
        return folder.fresh

    def _mark(self, folder: Node, name: bytes, *, is_set: bool) -> None:
        marks = self._marks(folder)
        marks[name] = marks.get(name, False) or is_set


def held_bytes(put: Put) -> int:
    """Return roughly what a change keeps in memory beyond what every entry does."""
    attributes = sum(len(name) + len(value) for name, value in put.xattrs.items())
    return sum(map(len, put.path)) + len(put.target) + attributes + 64 * len(put.regions or ())


def _implied(path: Path) -> Put:
    return Put(path=path, kind="dir")


def _text(path: Path) -> str:
    return repr(b"/".join(path)[:200])[1:]
