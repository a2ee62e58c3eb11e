"""Open the store that the settings name: the data directory, or a bucket with the directory as its cache."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from glowplug_runtime.settings import SettingsError

from glowplug_imagecache.places import BucketPlace, Keys, bucket_place
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.store import Store


@contextlib.asynccontextmanager
async def open_store(
    settings: ImagecacheSettings, root: Path, instance: str
) -> AsyncIterator[Store]:
    """Yield the store. Raises: SettingsError; UnavailableError where the bucket can't be read."""
    try:
        place = bucket_place(settings.store, settings.store_endpoint, settings.store_region)
    except ValueError as err:
        raise SettingsError(f"GLOWPLUG_IMAGECACHE_{err}") from None
    if place is None:
        yield await asyncio.to_thread(
            Store,
            root,
            free_bytes_min=settings.free_bytes_min,
            blob_bytes_max=settings.blob_bytes_max,
        )
        return
    shared = await asyncio.to_thread(_open_shared, settings, place, root, instance)
    try:
        yield shared
    finally:
        await asyncio.to_thread(shared.bucket.close)


def _open_shared(
    settings: ImagecacheSettings, place: BucketPlace, root: Path, instance: str
) -> SharedStore:
    from glowplug_imagecache.bucket import Bucket  # noqa: PLC0415 - loads a library of 15 MB

    bucket = Bucket(place, read_keys(settings.store_keys_file))
    try:
        store = SharedStore(
            root,
            bucket,
            instance,
            free_bytes_min=settings.free_bytes_min,
            blob_bytes_max=settings.blob_bytes_max,
            fresh_s=settings.evict_grace_s / 2,
            cache_bytes_max=settings.store_cache_bytes,
        )
        bucket.head("scrub.json")  # what is wrong with the settings is told now
    except BaseException:
        bucket.close()
        raise
    return store


def read_keys(path: str) -> Keys:
    """Return what signs requests. Raises: SettingsError, which never shows what is in the file."""
    if not path:
        return Keys()
    try:
        keys = msgspec.json.decode(Path(path).read_bytes(), type=Keys)
    except OSError as err:
        raise SettingsError(
            f"GLOWPLUG_IMAGECACHE_STORE_KEYS_FILE can't be read: {err.strerror}"
        ) from None
    except msgspec.MsgspecError:
        keys = Keys()
    if not keys.access_key_id or not keys.secret_access_key:
        raise SettingsError(
            "GLOWPLUG_IMAGECACHE_STORE_KEYS_FILE is JSON with access_key_id and secret_access_key"
        )
    return keys
