"""What makes bytes trustworthy: BLAKE3 names and zstd frames.

Every object that the store takes in or gives out passes here. No I/O; slow enough to run in threads
only. The worker has its own copy of these few lines: services share words, not code.
"""

from __future__ import annotations

import re

import blake3
import zstandard
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import CHUNK_BYTES, ChunkFrame

ZSTD_LEVEL = 3
DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def digest_of(data: bytes) -> Digest:
    """Return the name of some bytes."""
    return Digest(blake3.blake3(data).hexdigest())


def is_digest(name: str) -> bool:
    """Return whether a file's name is one of ours: file systems leave others between them."""
    return DIGEST.match(name) is not None


def stored_form(data: bytes) -> bytes:
    """Return the bytes as a zstd frame that says how long they are."""
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)


def frame_of(data: bytes) -> ChunkFrame:
    """Return one chunk of at most CHUNK_BYTES, ready for a batch or the store."""
    assert 0 < len(data) <= CHUNK_BYTES, len(data)  # noqa: S101 - pieces are planned, never given
    return ChunkFrame(digest_of(data), len(data), stored_form(data))


def raw_form(digest: Digest, stored: bytes) -> bytes | None:
    """Return the bytes that `stored` holds, or None if they are not what `digest` names.

    A frame that claims to be longer than a chunk may be is refused before anything is allocated.
    """
    try:
        size = zstandard.frame_content_size(stored)
        if not 0 < size <= CHUNK_BYTES:
            return None
        data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
    except zstandard.ZstdError:
        return None
    return data if digest_of(data) == digest else None
