"""What makes bytes trustworthy: BLAKE3 names and zstd frames.

Every object that the store takes in or gives out passes here. No I/O; slow enough to run in threads
only. The worker has its own copy of these few lines: services share words, not code.
"""

from __future__ import annotations

import re
import struct

import blake3
import zstandard
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import CHUNK_BYTES, STORED_BYTES_MAX, ChunkFrame

ZSTD_LEVEL = 3
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# A seal is what zstd calls a skippable frame: decoders pass over it, so a sealed file is a frame as before.
_SEAL = struct.Struct("<II32s")
_SEAL_MAGIC = 0x184D2A5B
SEAL_BYTES = _SEAL.size
KEPT_BYTES_MAX = STORED_BYTES_MAX + SEAL_BYTES


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


def sealed(digest: Digest, stored: bytes) -> bytes:
    """Return a frame that was found to be what `digest` names as the store keeps it: with a seal behind it.

    The seal is the frame's own BLAKE3, keyed with the name. It says what decoding and hashing the content would,
    for a tenth of the work: this frame, whole, under this name.
    """
    return stored + _seal(digest, stored)


def unsealed(digest: Digest, kept: bytes) -> ChunkFrame | None:
    """Return the chunk that `sealed` made `kept` of, or None if it is not what `digest` names.

    What has no seal, or a damaged one, is decoded and hashed instead.
    """
    stored = kept[:-SEAL_BYTES]
    if kept[-SEAL_BYTES:] == _seal(digest, stored):
        return ChunkFrame(digest, zstandard.frame_content_size(stored), stored)
    raw = raw_form(digest, kept)
    return None if raw is None else ChunkFrame(digest, len(raw), kept)


def _seal(digest: Digest, stored: bytes) -> bytes:
    name = blake3.blake3(stored, key=bytes.fromhex(digest)).digest()
    return _SEAL.pack(_SEAL_MAGIC, len(name), name)
