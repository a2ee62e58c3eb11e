"""What makes bytes trustworthy on a worker: BLAKE3 names and zstd frames.

Everything that images are fetched from or pushed to passes here. Blocks: callers run it in threads.
imagecache has its own copy of these few lines: services share words, not code.
"""

from __future__ import annotations

import blake3
import zstandard
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import CHUNK_BYTES, ChunkFrame

ZSTD_LEVEL = 3


def digest_of(data: bytes) -> Digest:
    """Return the name of some bytes."""
    return Digest(blake3.blake3(data).hexdigest())


def frame_of(data: bytes) -> ChunkFrame:
    """Return one chunk, compressed, ready to be pushed."""
    stored = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)
    return ChunkFrame(digest_of(data), len(data), stored)


def raw_form(digest: Digest, stored: bytes) -> bytes:
    """Return the bytes that `stored` holds.

    The length that a frame claims is looked at before anything is allocated for it.
    Raises: ContractError (image.corrupt) if they are not what `digest` names.
    """
    try:
        size = zstandard.frame_content_size(stored)
        if 0 < size <= CHUNK_BYTES:
            data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
            if digest_of(data) == digest:
                return data
    except zstandard.ZstdError as err:
        raise _corrupt(digest) from err
    raise _corrupt(digest)


def check_blob(digest: Digest, data: bytes) -> bytes:
    """Return `data` if `digest` is its name. Raises: ContractError (image.corrupt)."""
    if digest_of(data) != digest:
        raise _corrupt(digest)
    return data


def _corrupt(digest: Digest) -> ContractError:
    return ContractError("image.corrupt", f"what imagecache sent is not {digest}")
