"""Reads layers from their files into one tree: decompresses, hashes, counts, and hands out contents.

A layer's bytes were checked when they arrived; here its tar is, against the digest in the image's
configuration. So a tree is returned only if every layer was read to its end and was the right one.
Blocks: callers run it in threads. Contents go to the caller as they come, before that is known: they must
not be served before this returns.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Protocol

import zstandard

from glowplug_imagecache.layers.bounds import Bounds, Meter, corrupt
from glowplug_imagecache.layers.members import Change, read_member
from glowplug_imagecache.layers.tar import Member, TarReader
from glowplug_imagecache.layers.tree import Tree

READ_BYTES: Final = 256 * 1024
GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
# Frames that hold no data; podman's chunked layers have some, and a layer may begin with one.
ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"
# What a frame may make us remember, which is what zstd itself takes without being told (2^27).
ZSTD_WINDOW_MAX: Final = 128 * 1024 * 1024


class Contents(Protocol):
    """Who takes files' bytes."""

    def take(self, content: int, offset: int, data: bytes) -> None:
        """Take a piece of a file; holes are not told. Pieces of one file come in order.

        What it raises ends the reading: so a caller that no longer wants the image stops it.
        """


def read_layers(
    layers: Sequence[tuple[Path, str]], contents: Contents, bounds: Bounds | None = None
) -> Tree:
    """Return the tree that layers make.

    Args:
        layers: file and digest of the uncompressed tar ("sha256:…"), lowest first.
        contents: hears every file's bytes, also of files that a later layer hides, by the number that
            the tree's entries have as `content`.

    Raises: InvalidRequestError (layer.corrupt, layer.refused, layer.too_large).
    """
    meter = Meter(bounds or Bounds())
    tree = Tree(meter)
    numbers = 0
    for path, diff_id in layers:
        with path.open("rb") as file:
            numbers = _read_layer(tree, file, diff_id, contents, meter, numbers)
    return tree


def _read_layer(
    tree: Tree, file: IO[bytes], diff_id: str, contents: Contents, meter: Meter, numbers: int
) -> int:
    """Apply one layer; return how many contents there are now."""
    tree.begin_layer()
    meter.begin_layer()
    source = _Decompressed(file, hashlib.new(diff_id.partition(":")[0]), meter)
    reader = TarReader(source.read, meter.bounds)
    for member in reader:
        meter.file(member.size)
        tree.apply(_change(member, meter.bounds, numbers))
        if member.kind == "file":
            for offset, data in reader.pieces():
                contents.take(numbers, offset, data)
            numbers += 1
    source.drain()
    if source.digest != diff_id:
        raise corrupt(f"is not what the image's configuration says: {source.digest}, not {diff_id}")
    return numbers


def _change(member: Member, bounds: Bounds, number: int) -> Change:
    return read_member(member, bounds, number if member.kind == "file" else -1)


class _Decompressed:
    """A layer's tar, hashed and counted as it is read."""

    def __init__(self, file: IO[bytes], hashed: hashlib._Hash, meter: Meter) -> None:
        self._file = file
        self._hashed = hashed
        self._meter = meter
        self._source = _opened(file)
        self._buffer = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer only at the end."""
        if self._at + size > len(self._buffer):
            parts = [self._buffer[self._at :]]
            lacking = size - len(parts[0])
            while lacking > 0 and (piece := self._piece()):
                parts.append(piece)
                lacking -= len(piece)
            self._buffer, self._at = b"".join(parts), 0
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def drain(self) -> None:
        """Read what comes after the archive's end: padding, that the digest covers."""
        self._buffer, self._at = b"", 0
        while self._piece():
            pass

    @property
    def digest(self) -> str:
        """Return the digest of all that was read."""
        return f"{self._hashed.name}:{self._hashed.hexdigest()}"

    def _piece(self) -> bytes:
        try:
            piece = self._source.read(READ_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as err:
            raise corrupt(f"can't be decompressed: {err}") from err
        self._hashed.update(piece)
        self._meter.decompressed(len(piece), self._file.tell())
        return piece


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _opened(file: IO[bytes]) -> _Source:
    """Return what decompresses a layer, by how it begins; its media type may say otherwise."""
    start = file.read(4)
    file.seek(0)
    if start.startswith(GZIP_MAGIC):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if start == ZSTD_MAGIC or start[1:] == ZSTD_SKIPPABLE:
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
        return decompressor.stream_reader(file, read_size=READ_BYTES, read_across_frames=True)
    return file
