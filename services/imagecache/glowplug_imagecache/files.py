"""Do a file step: read the tar that the SDK packed, store its content, write the new manifest.

The tar is a user's: members are checked one by one, sizes are bounded, and nothing is unpacked to disk;
contents go straight into the chunk store. Blocks: callers run it in threads.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.manifests import (
    BATCH_BYTES_MAX,
    BATCH_CHUNKS_MAX,
    ChunkFrame,
    check_link,
    check_path,
    decode_manifest,
    encode_manifest,
    plan_pieces,
)
from glowplug_contracts.messages.image import ChunkRef, ImageManifest, ManifestEntry

from glowplug_imagecache.contents import objects_needed, tree_is_gone
from glowplug_imagecache.layering import merge_entries
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.store import Store

MEMBERS_MAX = 50_000
BYTES_MAX = 8 * 1024 * 1024 * 1024
MODE_KEPT = 0o755


def read_manifest(store: Store, digest: ImageDigest, *, wanted: bool = True) -> ImageManifest:
    """Return an image's manifest. Not `wanted`: somebody only looks, which keeps nothing alive.

    Who wants an image wants the tree that it stands on: whatever is made of it may name that one.

    Raises: NotFoundError (image.not_found), ContractError.
    """
    try:
        data = store.blob(Digest(digest), wanted=wanted)
    except NotFoundError as err:
        raise NotFoundError("image.not_found", f"the image {digest} is gone") from err
    manifest = decode_manifest(data)
    if wanted and manifest.base is not None and not store.keep(manifest.base.tree):
        raise tree_is_gone(manifest.base)
    return manifest


def has_image(store: Store, digest: ImageDigest) -> bool:
    """Return whether an image's manifest, and all that it needs, are here. They stay for a while, then."""
    try:
        manifest = read_manifest(store, digest)
        return not store.missing(list(objects_needed(store, manifest)))
    except NotFoundError:
        return False


def seal_image(store: Store, digest: ImageDigest, empty: ImageManifest) -> ImageDigest:
    """Return the image with the environment that `empty` has; "" stands for `empty` itself.

    Steps are cached without it, and what a worker wrote about it does not count.
    """
    manifest = read_manifest(store, digest) if digest else empty
    return write_manifest(store, msgspec.structs.replace(manifest, env=empty.env))


def add_files(
    store: Store,
    below: ImageManifest,
    blob: Digest,
    path: str,
    owner: WorkspaceId | None = None,
) -> ImageDigest:
    """Return the image that a file step makes: `below` with the content of `owner`'s tar at `path`.

    Raises: InvalidRequestError for a tar that holds what it may not; NotFoundError for a blob that
        is not here.
    """
    added = _read_tar(store, store.blob_path(blob, owner), path)
    entries = merge_entries(below.entries, added)
    return write_manifest(store, msgspec.structs.replace(below, entries=entries))


def write_image(store: Store, manifest: ImageManifest) -> ImageDigest:
    """Store a manifest as it is; return the image's digest."""
    return ImageDigest(store.add_blob(encode_manifest(manifest)))


def write_manifest(store: Store, manifest: ImageManifest) -> ImageDigest:
    """Store a manifest, with its total counted; return the image's digest."""
    total = sum(entry.size for entry in manifest.entries)
    whole = msgspec.structs.replace(manifest, bytes_total=total)
    return write_image(store, whole)


def _read_tar(store: Store, archive: Path, path: str) -> list[ManifestEntry]:
    entries: list[ManifestEntry] = []
    total = 0
    batch = _Batch(store)
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                total += member.size
                if len(entries) >= MEMBERS_MAX or total > BYTES_MAX:
                    raise InvalidRequestError(
                        "request.too_large",
                        f"what is added has over {MEMBERS_MAX} files or {BYTES_MAX} bytes",
                    )
                entries.append(_entry(opened, member, path, batch))
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as err:
        # tarfile reads numbers of extended headers as they come, and calls itself for each such header.
        raise InvalidRequestError("request.invalid", f"no usable tar: {err}") from err
    batch.flush()
    return entries


def _entry(
    opened: tarfile.TarFile, member: tarfile.TarInfo, path: str, batch: _Batch
) -> ManifestEntry:
    name = check_path(member.name)
    if name != path and not name.startswith(f"{path}/"):
        raise InvalidRequestError("request.invalid", f"path {name!r} is not below {path!r}")
    mode = member.mode & MODE_KEPT
    if member.isdir():
        return ManifestEntry(path=name, kind="dir", mode=mode)
    if member.issym():
        target = check_link(name, member.linkname)
        return ManifestEntry(path=name, kind="link", mode=0o777, target=target)
    content = opened.extractfile(member) if member.isreg() else None
    if content is None:
        raise InvalidRequestError(
            "request.invalid", f"path {name!r} is a device or a hard link; pack files and links"
        )
    chunks = tuple(
        ChunkRef(digest=batch.add(piece), offset=offset, size=len(piece))
        for offset, piece in _pieces(content, member.size)
    )
    return ManifestEntry(path=name, kind="file", mode=mode, size=member.size, chunks=chunks)


def _pieces(content: IO[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    for offset, length in plan_pieces(size):
        piece = content.read(length)
        if len(piece) != length:
            raise InvalidRequestError("request.invalid", "the tar ends inside a file")
        yield offset, piece


class _Batch:
    """Collects chunks, so that one sync to disk serves many."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._frames: dict[Digest, ChunkFrame] = {}
        self._bytes = 0

    def add(self, piece: bytes) -> Digest:
        frame = frame_of(piece)
        self._frames[frame.digest] = frame
        self._bytes += len(piece)
        if self._bytes >= BATCH_BYTES_MAX or len(self._frames) >= BATCH_CHUNKS_MAX:
            self.flush()
        return frame.digest

    def flush(self) -> None:
        self._store.put_chunks(list(self._frames.values()))
        self._frames.clear()
        self._bytes = 0
