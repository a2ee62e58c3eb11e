"""The files of a lazy mount on disk: the manifest, the metadata image and two sparse devices. Blocks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from glowplug_contracts.ids import Digest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import FlatTree

from glowplug_worker.images.erofs import build_image, place_objects
from glowplug_worker.images.erofs.image import IDENTITY_BYTES
from glowplug_worker.images.mounts import kernel
from glowplug_worker.images.objects import check_blob

_TREE, _METADATA, _PACKS, _PIECES, _ROOT = "tree", "metadata", "packs", "pieces", "root"
_SHOWN = ".shown"


class Home(NamedTuple):
    """Where the files of a tree are, and its mount."""

    path: Path

    @property
    def tree(self) -> Path:
        """Return the manifest's place."""
        return self.path / _TREE

    @property
    def metadata(self) -> Path:
        """Return the metadata image's place."""
        return self.path / _METADATA

    @property
    def devices(self) -> tuple[Path, Path]:
        """Return the places of packs and pieces, in the order in which they are mounted."""
        return self.path / _PACKS, self.path / _PIECES

    @property
    def shown(self) -> tuple[Path, Path]:
        """Return where the devices are mounted if that takes FUSE."""
        packs, pieces = self.devices
        return packs.with_suffix(_SHOWN), pieces.with_suffix(_SHOWN)

    @property
    def root(self) -> Path:
        """Return where it is mounted."""
        return self.path / _ROOT


class Whole(NamedTuple):
    """A tree that is all here: where its manifest is, and its devices, open."""

    manifest: Path
    files: tuple[int, int]


def make_home(
    path: Path, digest: Digest, manifest: bytes, left: Home | None = None
) -> tuple[Home, tuple[int, int]]:
    """Write the files of a tree, its devices empty; return them, and the devices open for writing.

    Args, raises: as `make_devices`.
    """
    home, files, tree = make_devices(path, digest, manifest, left)
    try:
        write_metadata(home, digest, tree)
    except OSError:
        for file in files:
            os.close(file)
        raise
    return home, files


def make_devices(
    path: Path, digest: Digest, manifest: bytes, left: Home | None = None
) -> tuple[Home, tuple[int, int], FlatTree]:
    """Make a tree's directory, all but the metadata: that takes longer, and what is in it can be fetched meanwhile.

    Args:
        left: of the same tree, with devices that may have something in them: they are moved here.

    Raises: ContractError (image.corrupt) if the manifest is not what it is called, InvalidRequestError if it
        breaks a rule, OSError.
    """
    tree = decode_tree(check_blob(digest, manifest))
    path.mkdir(mode=0o700)
    home = Home(path)
    home.tree.write_bytes(manifest)
    home.root.mkdir()
    for shown in home.shown:
        shown.touch()
    old = (None, None) if left is None else left.devices
    packs = _take(home.devices[0], place_objects(tree.packs).size, old[0])
    try:
        pieces = _take(home.devices[1], place_objects(tree.pieces).size, old[1])
    except OSError:
        os.close(packs)
        raise
    return home, (packs, pieces), tree


def write_metadata(home: Home, digest: Digest, tree: FlatTree) -> None:
    """Write the metadata image of a tree. Raises: OSError."""
    image = build_image(tree, bytes.fromhex(digest)[:IDENTITY_BYTES])
    home.metadata.write_bytes(image.metadata)


def _take(path: Path, size: int, old: Path | None) -> int:
    """Move a device here and open it, if nobody else has it open; else make an empty one."""
    if old is not None and old.is_file() and old.stat().st_size == size:
        file = os.open(old, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not kernel.opened_elsewhere(file):
            old.rename(path)
            return file
        os.close(file)
    return _make(path, size)


def _make(path: Path, size: int) -> int:
    """Make a sparse file; return it open: opened later, while readers of it wait, writing would wait, too."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.truncate(file, size)
    return file
