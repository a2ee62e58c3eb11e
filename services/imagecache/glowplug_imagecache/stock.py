"""What the store holds, as values: the words of the machine in `eviction.py`. Pure.

Times are Unix seconds. `used_at` of an image or a source may lie ahead: somebody leased it until then.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.trees import TREE_FORMAT, StoredObject

Why = Literal["unused", "room"]


class ImageSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest in the store, of `size` bytes itself.

    `objects` are the places in the stock's table of what it names, each once; None where nobody here can
    read it. What such an image needs is unknown, so nothing is swept while it is there. `base` is the tree
    that it stands on, whose objects it needs as well.
    """

    digest: Digest
    used_at: float
    size: int
    objects: Sequence[int] | None
    base: Digest | None = None


class TreeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a tree that images stand on, or that a model is; `objects` as an image's."""

    digest: Digest
    used_at: float
    size: int
    objects: Sequence[int] | None


class ObjectSeen(msgspec.Struct, frozen=True, gc=False):
    """A chunk in the store, of `size` stored bytes, put or asked for last at `touched_at`."""

    digest: bytes
    size: int
    touched_at: float


class SourceSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that a workspace keeps: the source of a deployment, or what a file step adds."""

    owner: WorkspaceId
    digest: Digest
    used_at: float
    size: int


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """All that is there, as one look found it. What came or was used during the look may be missing."""

    images: tuple[ImageSeen, ...]
    objects: Sequence[ObjectSeen]
    sources: tuple[SourceSeen, ...]
    trees: tuple[TreeSeen, ...] = ()

    @property
    def size(self) -> int:
        """Return the bytes of all of it."""
        return (
            sum(image.size for image in self.images)
            + sum(tree.size for tree in self.trees)
            + sum(one.size for one in self.objects)
            + sum(source.size for source in self.sources)
        )


class ManifestSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest as a look finds it. Attributes: named: what is in it; None for what can't be read."""

    digest: Digest
    used_at: float
    size: int
    named: Named | None


def stock_of(
    objects: Sequence[ObjectSeen],
    sources: Iterable[SourceSeen],
    manifests: Sequence[ManifestSeen],
) -> Stock:
    """Put together what a look found. Objects come first in time: none may be missing that a manifest names."""
    places = {one.digest: place for place, one in enumerate(objects)}
    bases = {one.named.base for one in manifests if one.named is not None}
    images: list[ImageSeen] = []
    trees: list[TreeSeen] = []
    for one in manifests:
        named, digest, used_at, size = one.named, one.digest, one.used_at, one.size
        needed = None if named is None else _places(named, places)
        # What can't be read and something stands on must be a tree, of a later format.
        if digest in bases if named is None else named.is_tree:
            trees.append(TreeSeen(digest=digest, used_at=used_at, size=size, objects=needed))
            continue
        base = None if named is None else named.base
        images.append(
            ImageSeen(digest=digest, used_at=used_at, size=size, objects=needed, base=base)
        )
    return Stock(images=tuple(images), objects=objects, sources=tuple(sources), trees=tuple(trees))


def _places(named: Named, places: Mapping[bytes, int]) -> Sequence[int]:
    return array("I", [places[digest] for digest in named.objects if digest in places])


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What deployments, sandboxes, containers, builds and models need. It is never evicted."""

    images: frozenset[Digest]
    sources: frozenset[tuple[WorkspaceId, Digest]]
    trees: frozenset[Digest] = frozenset()


class _ChunkMark(msgspec.Struct, gc=False):
    digest: str


class _EntryMark(msgspec.Struct, gc=False):
    chunks: tuple[_ChunkMark, ...] = ()


class _BaseMark(msgspec.Struct):
    tree: str


class _ImageMark(msgspec.Struct):
    host: str
    entries: tuple[_EntryMark, ...]
    base: _BaseMark | None = None


class _TreeMark(msgspec.Struct):
    format: int
    packs: tuple[StoredObject, ...] = ()
    pieces: tuple[StoredObject, ...] = ()


_IMAGE = msgspec.msgpack.Decoder(_ImageMark)
_TREE = msgspec.msgpack.Decoder(_TreeMark)


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest names: raw digests of objects, and the tree below an image."""

    objects: frozenset[bytes]
    base: Digest | None = None
    is_tree: bool = False


def named_in(manifest: bytes) -> Named:
    """Return what an image's or a tree's manifest names. Reads only that; what else it says is not checked.

    Raises: ContractError if it is neither, or of a later format.
    """
    try:
        marked = _IMAGE.decode(manifest)
        return Named(
            objects=frozenset(
                bytes.fromhex(chunk.digest) for entry in marked.entries for chunk in entry.chunks
            ),
            base=None if marked.base is None else Digest(marked.base.tree),
        )
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    return Named(objects=frozenset(one.digest for one in tree_objects(manifest)), is_tree=True)


def tree_objects(manifest: bytes) -> tuple[StoredObject, ...]:
    """Return all objects that a tree's manifest names. Raises: ContractError, as `named_in`."""
    try:
        tree = _TREE.decode(manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise ContractError("platform.contract", f"no manifest of objects: {err}") from err
    if tree.format > TREE_FORMAT:
        raise ContractError("platform.contract", f"a tree of the later format {tree.format}")
    return (*tree.packs, *tree.pieces)
