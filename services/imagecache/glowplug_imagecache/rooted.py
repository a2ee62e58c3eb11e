"""What a build has made of its image's root: which Python is there now.

Steps may install one, replace it or take it away, so it is looked for again after each of them; that there
is one is asked at the end. Blocks: callers run it in threads.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import ImageDigest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_contracts.messages.image import BaseImage, ImageManifest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import FlatTree

from glowplug_imagecache.configuring import configure
from glowplug_imagecache.files import read_manifest, write_image
from glowplug_imagecache.pythons import find_any_python, find_python
from glowplug_imagecache.store import Store


def settle_root(
    store: Store, digest: ImageDigest, wanted: str
) -> tuple[ImageDigest, BaseImage | None]:
    """Return the image with the Python that its root has now, and that root."""
    manifest = read_manifest(store, digest)
    if manifest.base is None:
        return digest, None
    base = manifest.base
    found = find_any_python(read_tree(store, base), base.path, wanted)
    if (found.executable, found.version) == (base.python, manifest.python_version):
        return digest, base
    base = msgspec.structs.replace(base, python=found.executable)
    settled = msgspec.structs.replace(manifest, base=base, python_version=found.version)
    return write_image(store, settled), base


def configure_image(store: Store, digest: ImageDigest, step: ImageStep) -> ImageDigest:
    """Return the image with what a "config" step says."""
    manifest = read_manifest(store, digest)
    assert manifest.base is not None  # noqa: S101 - check_spec saw to it
    base = configure(manifest.base, step)
    return write_image(store, msgspec.structs.replace(manifest, base=base))


def check_python(store: Store, manifest: ImageManifest, spec: ImageSpec) -> None:
    """Raise RejectedError (image.unsupported) where an image with a root of its own has no Python for us."""
    if manifest.base is not None and not manifest.base.python:
        find_python(read_tree(store, manifest.base), manifest.base.path, spec.python_version)


def read_tree(store: Store, base: BaseImage) -> FlatTree:
    """Return an image's tree. Raises: NotFoundError (image.not_found), ContractError."""
    try:
        return decode_tree(store.blob(base.tree))
    except NotFoundError as err:
        raise NotFoundError("image.not_found", f"the tree {base.tree} is gone") from err
