"""Where trees and their objects come from: imagecache, or a directory of files named by their digests.

Nothing here is believed: `daemon/` checks every object against its name before it is written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import zstandard
from glowplug_contracts.errors import NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import CHUNK_BYTES, ChunkFrame

from glowplug_worker.images.client import StoreClient


class TreeSource(Protocol):
    """Where trees and their objects come from. Nobody believes it: all bytes are checked by whoever asked."""

    async def manifest(self, digest: Digest) -> bytes:
        """Return the bytes of a tree's manifest. Raises: NotFoundError, UnavailableError."""

    async def fetch(self, digests: Sequence[Digest]) -> Iterable[tuple[Digest, bytes]]:
        """Return objects, in any order; those that can't be had are left out. Raises: UnavailableError.

        Going through them may take a while: it belongs into a thread.
        """


class DirectorySource:
    """A directory in which each object is a file named by its digest."""

    def __init__(self, path: Path) -> None:
        """Read from this directory."""
        self._path = path

    async def manifest(self, digest: Digest) -> bytes:
        """Return a manifest. Raises: NotFoundError."""
        for _, data in await self.fetch([digest]):
            return data
        raise NotFoundError("image.not_found", f"there is no tree {digest} in {self._path}")

    async def fetch(self, digests: Sequence[Digest]) -> Iterable[tuple[Digest, bytes]]:
        """Return those that are there. Raises: UnavailableError."""
        return await asyncio.to_thread(self._read, digests)

    def _read(self, digests: Sequence[Digest]) -> list[tuple[Digest, bytes]]:
        if not self._path.is_dir():
            raise UnavailableError("platform.unavailable", f"{self._path} is not there")
        found = []
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                found.append((digest, (self._path / digest).read_bytes()))
        return found


class ImagecacheSource:
    """imagecache: manifests are blobs, objects are chunks."""

    def __init__(self, client: StoreClient) -> None:
        """Ask through this client."""
        self._client = client

    async def manifest(self, digest: Digest) -> bytes:
        """Return a manifest. Raises: NotFoundError, UnavailableError."""
        return await self._client.get(digest)

    async def fetch(self, digests: Sequence[Digest]) -> Iterable[tuple[Digest, bytes]]:
        """Return objects, decompressed one by one. Raises: UnavailableError, NotFoundError (one is not there)."""
        frames = await self._client.get_chunks(digests)
        return ((each.digest, plain(each)) for each in frames)


def plain(frame: ChunkFrame) -> bytes:
    """Return an object's bytes; b"" for what is no frame of at most an object's size, which no digest names."""
    if frame.stored is None:
        return b""
    try:
        size = zstandard.frame_content_size(frame.stored)
        if 0 < size <= CHUNK_BYTES:
            return zstandard.ZstdDecompressor().decompress(frame.stored, max_output_size=size)
    except zstandard.ZstdError:
        return b""
    return b""
