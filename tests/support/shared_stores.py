"""Stores in a bucket of a real server, each with a prefix of its own unless tests share one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from glowplug_imagecache.bucket import Bucket
from glowplug_imagecache.shared_store import SharedStore

from tests.support.weed import KEYS, Weed


def a_prefix() -> str:
    return uuid.uuid4().hex


@contextlib.contextmanager
def a_shared_store(
    weed: Weed,
    root: Path,
    prefix: str = "",
    *,
    name: str = "one",
    fresh_s: float = 1800.0,
    blob_bytes_max: int = 1 << 30,
    cache_bytes_max: int = 1 << 30,
) -> Iterator[SharedStore]:
    bucket = Bucket(weed.place(prefix or a_prefix()), KEYS)
    try:
        yield SharedStore(
            root,
            bucket,
            name,
            free_bytes_min=0,
            blob_bytes_max=blob_bytes_max,
            fresh_s=fresh_s,
            cache_bytes_max=cache_bytes_max,
        )
    finally:
        bucket.close()
