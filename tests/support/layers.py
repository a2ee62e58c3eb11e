"""Layers for tests: members and tars, and what a tree made of them holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from glowplug_imagecache.layers.bounds import Bounds, Meter
from glowplug_imagecache.layers.members import read_member
from glowplug_imagecache.layers.reading import read_layers
from glowplug_imagecache.layers.tar import Member, TarReader
from glowplug_imagecache.layers.tree import Tree

BOUNDS = Bounds()


def a_member(name: bytes, kind: str = "file", **facts: object) -> Member:
    fixed: Mapping[str, object] = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0}
    return Member(name=name, kind=kind, **{**fixed, **facts})  # type: ignore[arg-type]


def a_dir(name: bytes, **facts: object) -> Member:
    return a_member(name, "dir", **{"mode": 0o700, **facts})


def a_link(name: bytes, to: bytes) -> Member:
    return a_member(name, "link", linkname=to)


def a_hard_link(name: bytes, to: bytes) -> Member:
    return a_member(name, "hardlink", linkname=to)


def lay(*layers: Iterable[Member], bounds: Bounds = BOUNDS) -> Tree:
    """Return the tree of layers that are lists of members."""
    tree = Tree(Meter(bounds))
    number = 0
    for layer in layers:
        tree.begin_layer()
        for member in layer:
            tree.apply(read_member(member, bounds, number))
            number += 1
    tree.check()
    return tree


def paths(tree: Tree) -> list[str]:
    """Return a tree's paths; directories end with a slash."""
    return [
        b"/".join(entry.path).decode() + ("/" if entry.about.kind == "dir" else "")
        for entry in tree.entries()
    ]


def members_of(data: bytes, bounds: Bounds = BOUNDS) -> list[tuple[Member, bytes]]:
    """Return a tar's members, each with its bytes, holes filled."""
    reader = TarReader(io.BytesIO(data).read, bounds)
    found = []
    for member in reader:
        content = bytearray(member.size)
        for offset, piece in reader.pieces():
            content[offset : offset + len(piece)] = piece
        found.append((member, bytes(content)))
    return found


def tar_of(
    members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT
) -> bytes:
    """Return a tar as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else member.size
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Nowhere:
    """Takes contents and keeps their number of bytes."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, content: int, offset: int, data: bytes) -> None:
        self.taken += len(data)


def read_tars(folder: Path, *tars: bytes, bounds: Bounds = BOUNDS, form: str = "gzip") -> Tree:
    """Return what `read_layers` makes of tars."""
    layers = []
    for number, tar in enumerate(tars):
        path = folder / f"layer-{number}"
        path.write_bytes(gzip.compress(tar, 6, mtime=0) if form == "gzip" else tar)
        layers.append((path, f"sha256:{hashlib.sha256(tar).hexdigest()}"))
    return read_layers(layers, Nowhere(), bounds)
