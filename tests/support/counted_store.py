"""A cache service's store that counts what is read of it, and images in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from glowplug_contracts.ids import Digest, ImageDigest
from glowplug_contracts.manifests import ChunkFrame
from glowplug_contracts.messages.image import BaseImage, ImageManifest
from glowplug_imagecache.files import write_image
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.store import Store

from tests.support.bases import a_layer


class CountingStore(Store):
    """Counts which chunks are read for others, and how often."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, free_bytes_min=0, blob_bytes_max=1 << 30)
        self.asked: Counter[Digest] = Counter()

    def chunk(self, digest: Digest) -> ChunkFrame:
        """Count, and return the chunk."""
        self.asked[digest] += 1
        return super().chunk(digest)

    def asked_bytes(self) -> int:
        """Return the stored bytes of all that was read."""
        return sum(len(super(CountingStore, self).chunk(name).stored or b"") * times
                   for name, times in self.asked.items())  # fmt: skip


def an_image(
    store: Store, folder: Path, files: Mapping[str, bytes], *like: Digest
) -> tuple[ImageDigest, Digest]:
    """Store an image as a pull does; return its digest and its tree's."""
    tar = a_layer(files)
    (folder / "layer").write_bytes(tar)
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    tree = flatten_layers(store, [(folder / "layer", diff_id)], like=like).digest
    base = BaseImage(
        reference="r@sha256:0", platform="linux/amd64", tree=tree, python="/bin/python3"
    )
    manifest = ImageManifest(host="", python_version="3.12", entries=(), base=base)
    return write_image(store, manifest), tree
