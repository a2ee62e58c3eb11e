"""Whether an object is what its path says. Slow enough to run in threads only."""

from __future__ import annotations

from typing import IO, Final

import blake3
from glowplug_contracts.ids import Digest

from glowplug_imagecache.objects import KEPT_BYTES_MAX, is_digest, raw_form, unsealed

CHUNKS, BLOBS, LEASED, WORKSPACES = "chunks", "blobs", "leased", "workspaces"
NAMED: Final = frozenset({CHUNKS, BLOBS, LEASED, WORKSPACES})
_PIECE_BYTES: Final = 1024 * 1024


def matches(path: str, file: IO[bytes], *, decoded: bool = False) -> bool:
    """Return whether a file's bytes are what a path names; what has no digest for a name always is.

    Args:
        decoded: decode a chunk, too, instead of believing its seal.
    """
    room, name = path.partition("/")[0], path.rpartition("/")[2]
    if room not in NAMED or not is_digest(name):
        return True
    file.seek(0)
    if room == CHUNKS:
        check = raw_form if decoded else unsealed
        return check(Digest(name), file.read(KEPT_BYTES_MAX + 1)) is not None
    hashed = blake3.blake3()
    while piece := file.read(_PIECE_BYTES):
        hashed.update(piece)
    return bool(hashed.hexdigest() == name)
