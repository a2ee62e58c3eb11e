"""What an image needs of the store: its layer's chunks, and of a base the tree and everything that it names.

Blocks: callers run it in threads.
"""

from __future__ import annotations

from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import chunk_sizes
from glowplug_contracts.messages.image import BaseImage, ImageManifest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import File, FlatTree, PackedFile

from glowplug_imagecache.stock import tree_objects
from glowplug_imagecache.store import Store


def objects_needed(
    store: Store, manifest: ImageManifest, *, wanted: bool = True
) -> dict[Digest, int]:
    """Return every object that an image needs, once, with its raw size.

    Not `wanted`: somebody only looks. Raises: NotFoundError (image.not_found), ContractError.
    """
    sizes = chunk_sizes(manifest)
    if manifest.base is not None:
        objects = tree_objects(_tree_bytes(store, manifest.base, wanted=wanted))
        sizes |= {Digest(one.digest.hex()): one.size for one in objects}
    return sizes


def tree_below(store: Store, manifest: ImageManifest) -> FlatTree | None:
    """Return the tree of an image's base, for somebody who only looks.

    Raises: NotFoundError (image.not_found), ContractError.
    """
    if manifest.base is None:
        return None
    return decode_tree(_tree_bytes(store, manifest.base, wanted=False))


def size_and_files(store: Store, manifest: ImageManifest) -> tuple[int, int]:
    """Return the bytes and the number of an image's files, its base's among them.

    What several files of the layer share counts for each, what those of the base share counts once. Holes
    are nothing. Raises: NotFoundError (image.not_found), ContractError.
    """
    size = sum(entry.size for entry in manifest.entries)
    files = sum(entry.kind == "file" for entry in manifest.entries)
    tree = tree_below(store, manifest)
    if tree is not None:
        size += sum(one.size for one in (*tree.packs, *tree.pieces))
        files += sum(isinstance(entry, File | PackedFile) for entry in tree.entries)
    return size, files


def tree_is_gone(base: BaseImage) -> NotFoundError:
    """Return what is wrong with an image whose base's tree is not here."""
    return NotFoundError(
        "image.not_found", f"the tree of {base.reference} is gone; deploy again to pull it"
    )


def _tree_bytes(store: Store, base: BaseImage, *, wanted: bool) -> bytes:
    try:
        return store.blob(base.tree, wanted=wanted)
    except NotFoundError as err:
        raise tree_is_gone(base) from err
