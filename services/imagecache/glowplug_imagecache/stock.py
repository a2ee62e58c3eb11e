"""What the store holds, as values: the words of the machine in `eviction.py`. Pure.

Times are Unix seconds. `used_at` of an image or a source may lie ahead: somebody leased it until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.trees import TREE_FORMAT, StoredObject

Why = Literal["unused", "room"]


class ImageSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest in the store, of `size` bytes itself.

    `objects` are the places in the stock's table of what it names, each once; None where nobody here can
    read it. What such an image needs is unknown, so nothing is swept while it is there.
    """

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

    @property
    def size(self) -> int:
        """Return the bytes of all of it."""
        return (
            sum(image.size for image in self.images)
            + sum(one.size for one in self.objects)
            + sum(source.size for source in self.sources)
        )


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What deployments, sandboxes, containers and builds need. It is never evicted."""

    images: frozenset[Digest]
    sources: frozenset[tuple[WorkspaceId, Digest]]


class _ChunkMark(msgspec.Struct, gc=False):
    digest: str


class _EntryMark(msgspec.Struct, gc=False):
    chunks: tuple[_ChunkMark, ...] = ()


class _ImageMark(msgspec.Struct):
    host: str
    entries: tuple[_EntryMark, ...]


class _TreeMark(msgspec.Struct):
    format: int
    packs: tuple[StoredObject, ...] = ()
    pieces: tuple[StoredObject, ...] = ()


_IMAGE = msgspec.msgpack.Decoder(_ImageMark)
_TREE = msgspec.msgpack.Decoder(_TreeMark)


def objects_of(manifest: bytes) -> frozenset[bytes]:
    """Return the raw digests of all objects that an image's or a tree's manifest names.

    Reads only that; what else the manifest says is not checked. Raises: ContractError if it is
    neither, or of a later format.
    """
    try:
        marked = _IMAGE.decode(manifest)
        return frozenset(
            bytes.fromhex(chunk.digest) for entry in marked.entries for chunk in entry.chunks
        )
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        tree = _TREE.decode(manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise ContractError("platform.contract", f"no manifest of objects: {err}") from err
    if tree.format > TREE_FORMAT:
        raise ContractError("platform.contract", f"a tree of the later format {tree.format}")
    return frozenset(one.digest for table in (tree.packs, tree.pieces) for one in table)
