"""Builders for trees, manifests, stores and imagecache's HTTP door."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from aiohttp import web
from glowplug_contracts.ids import DEFAULT_WORKSPACE, Digest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_contracts.messages.image import ChunkRef, ImageManifest, ManifestEntry
from glowplug_contracts.tree_rules import decode_tree
from glowplug_imagecache.http import make_app
from glowplug_imagecache.objects import digest_of
from glowplug_imagecache.store import Store
from glowplug_runtime.clock import Clock
from glowplug_runtime.http import open_http
from glowplug_runtime.replicas import Replicas
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.extract import TreeExtractor
from glowplug_worker.images.local import LocalImages, open_images
from glowplug_worker.images.mounts.probe import MountsWanted
from glowplug_worker.images.opening import Mounting

TOKEN = "secret-of-the-test"


def a_store(root: Path, *, free_bytes_min: int = 0, blob_bytes_max: int = 1 << 30) -> Store:
    return Store(root, free_bytes_min=free_bytes_min, blob_bytes_max=blob_bytes_max)


def extract(store: Store, digest: Digest, root: Path) -> dict[str, int]:
    """Extract a stored tree as a worker does; return what was not kept."""
    extractor = TreeExtractor(root, decode_tree(store.blob(digest)))
    try:
        # In an order that has nothing to do with the tree's.
        for each in sorted(extractor.objects):
            extractor.write([store.chunk(each)])
        return extractor.finish()
    finally:
        extractor.close()


def a_file(path: str, content: bytes = b"content", mode: int = 0o644) -> ManifestEntry:
    """Return an entry for a file of one chunk."""
    chunks = (ChunkRef(digest=digest_of(content), offset=0, size=len(content)),) if content else ()
    return ManifestEntry(path=path, kind="file", mode=mode, size=len(content), chunks=chunks)


def a_dir(path: str, mode: int = 0o755) -> ManifestEntry:
    return ManifestEntry(path=path, kind="dir", mode=mode)


def a_link(path: str, target: str) -> ManifestEntry:
    return ManifestEntry(path=path, kind="link", mode=0o777, target=target)


def a_manifest(*entries: ManifestEntry, host: str = "", env: dict[str, str] | None = None):
    return ImageManifest(host=host, python_version="3.11", entries=entries, env=env or {})


def write_tree(root: Path, tree: Mapping[str, bytes | str | None]) -> Path:
    """Write files (bytes), directories (None) and links (str) below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return root


def read_tree(root: Path) -> dict[str, tuple[str, object]]:
    """Return everything below `root`: kind and content, with whether files are executable."""
    found: dict[str, tuple[str, object]] = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = ("link", os.readlink(path))  # noqa: PTH115 - as it is written
            elif path.is_dir():
                found[key] = ("dir", None)
            else:
                found[key] = ("file", (path.read_bytes(), bool(path.stat().st_mode & 0o100)))
    return found


@contextlib.asynccontextmanager
async def open_imagecache(
    store: Store,
    clock: Clock | None = None,
    token: str = TOKEN,
    more: Sequence[web.RouteDef] = (),
) -> AsyncIterator[str]:
    """Serve a store over HTTP; yield its URL."""
    app = make_app(store, clock or Clock(), token, more)
    async with open_http(app, "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def open_client(url: str | None, token: str = TOKEN) -> AsyncIterator[StoreClient]:
    async with open_session(token) as session:
        yield StoreClient(session, lambda: url)


@contextlib.asynccontextmanager
async def open_worker_images(
    data_dir: Path,
    url: str | Replicas,
    wanted: MountsWanted = "extract",
    *,
    token: str = TOKEN,
) -> AsyncIterator[LocalImages]:
    replicas = url if isinstance(url, Replicas) else Replicas(lambda: [url])
    async with asyncio.TaskGroup() as tasks:
        mounting = Mounting(
            wanted=wanted,
            clock=Clock(),
            spawn=lambda work, name: tasks.create_task(work, name=name),
            urls=replicas.urls,
            token=token,
        )
        async with open_images(data_dir, replicas, mounting) as images:
            yield images


def file_image(store: Store, *files: tuple[str, bytes], **env: str) -> ImageSpec:
    """Return an image of a step for each file, which need neither containers nor commands.

    What they add is leased in the store, so that it is no source that eviction looks at.
    """
    return ImageSpec(steps=tuple(_file_step(store, *file) for file in files), env=env)


def _file_step(store: Store, path: str, content: bytes) -> ImageStep:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(path)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    blob = digest_of(packed.getvalue())
    with store.open_upload(blob, owner=DEFAULT_WORKSPACE) as upload:
        upload.write(packed.getvalue())
        upload.finish(keep_until=Clock().unix() + 3600.0)
    return ImageStep(kind="file", args=(path,), blob=blob)


def chunk_file(store_root: Path, digest: Digest) -> Path:
    """Return where a store keeps a chunk, for tests that damage it."""
    return store_root / "chunks" / digest[:2] / digest
