"""COPY and ADD: files of a context or of another stage, put into an image's tree. Nothing is unpacked.

What is copied becomes a small tree whose objects are in the store, laid over the image's. Where it goes follows the
image's links (`/bin` is one), and directories that are there stay what they are. Blocks: callers run it in threads.
"""

from __future__ import annotations

import hashlib
import posixpath
from pathlib import Path as FilePath
from typing import Final

import msgspec
from glowplug_contracts.errors import InvalidRequestError, RejectedError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.deployment import ImageStep
from glowplug_contracts.messages.image import ImageManifest
from glowplug_contracts.tree_changes import Changes, Path, apply_changes, pick
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import AnyEntry, Directory, FlatTree, HardLink, Symlink, encode_tree

from glowplug_imagecache.files import write_image
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.rooted import read_tree
from glowplug_imagecache.store import Store
from glowplug_imagecache.tree_paths import TreePaths

FILES: Final = b"f"
INSIDES: Final = b"d"


def copy_context(
    store: Store, below: ImageManifest, step: ImageStep, owner: WorkspaceId
) -> ImageDigest:
    """Return the image with what the step's tar holds in it.

    Raises: RejectedError (image.build_failed), InvalidRequestError (layer.…), NotFoundError.
    """
    assert step.blob is not None  # noqa: S101 - check_spec saw to it
    archive = store.blob_path(step.blob, owner)
    tree = flatten_layers(store, [(archive, _diff_id(archive))]).tree
    paths = TreePaths(tree)
    found = [(real, True) for real, _ in paths.matches(FILES + b"/*")]
    inside, _ = paths.resolve(INSIDES)
    has_insides = isinstance(paths.resolve(INSIDES)[1], Directory)
    picked = [*found, *([(inside, False)] if has_insides else [])]
    return _put(store, below, step, tree, picked, many=has_insides or len(found) > 1)


def copy_stage(store: Store, below: ImageManifest, step: ImageStep, tree: Digest) -> ImageDigest:
    """Return the image with files of another one in it. Raises: RejectedError (image.build_failed)."""
    stage = decode_tree(store.blob(tree))
    paths = TreePaths(stage)
    picked: list[tuple[Path, bool]] = []
    for source in step.args[1:]:
        matched = paths.matches(source.encode())
        if not matched:
            raise _failed(f"{source!r} is not in the stage that it is copied from")
        for path, entry in matched:
            if isinstance(entry, Symlink):  # as Docker does: what a source leads to is copied
                real, there = paths.resolve(b"/".join(path))
                if there is None:
                    raise _failed(f"{source!r} leads to nothing in its stage")
                picked.append((real, not isinstance(there, Directory)))
            else:
                picked.append((paths.real(path), not isinstance(entry, Directory)))
    return _put(store, below, step, stage, picked, many=len(picked) > 1)


def _put(
    store: Store,
    below: ImageManifest,
    step: ImageStep,
    source: FlatTree,
    picked: list[tuple[Path, bool]],
    *,
    many: bool,
) -> ImageDigest:
    if below.base is None:
        raise _failed("only an image of a registry has a root to copy to")
    base = read_tree(store, below.base)
    written = step.args[0]
    target = posixpath.join(below.base.cwd or "/", written)
    try:
        place, there = TreePaths(base).resolve(target.encode())
    except ValueError as err:
        raise _failed(f"{target!r} can't be copied to: {err}") from err
    is_folder = many or isinstance(there, Directory) or written.endswith(("/", "/."))
    if there is not None and is_folder and not isinstance(there, Directory):
        raise _failed(f"{target!r} is a file in the image, no directory")
    placed = [
        (origin, (*place, origin[-1]) if is_file and (is_folder or not place) else place)
        for origin, is_file in picked
    ]
    added = pick(source, placed, lambda entry: _dressed(entry, step))
    try:
        made = apply_changes(base, Changes(tree=added, adds_only=True))
    except InvalidRequestError as err:
        raise _failed(f"what is copied can't be kept: {err}") from err
    digest = store.add_blob(encode_tree(made))
    root = msgspec.structs.replace(below.base, tree=digest)
    total = sum(each.size for each in (*made.packs, *made.pieces))
    total += sum(entry.size for entry in below.entries)
    return write_image(store, msgspec.structs.replace(below, base=root, bytes_total=total))


def _dressed(entry: AnyEntry, step: ImageStep) -> AnyEntry:
    assert not isinstance(entry, HardLink)  # noqa: S101 - what links lead to is dressed
    mode = entry.mode
    if step.mode >= 0 and not isinstance(entry, Symlink):
        mode = step.mode
    return msgspec.structs.replace(entry, uid=step.uid, gid=step.gid, mode=mode)


def _diff_id(archive: FilePath) -> str:
    with archive.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _failed(message: str) -> RejectedError:
    return RejectedError("image.build_failed", message)
