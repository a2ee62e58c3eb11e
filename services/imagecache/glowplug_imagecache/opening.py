"""Open the store that the settings name: the data directory, a bucket, or the replicas' own directories."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from glowplug_runtime.service import Shell
from glowplug_runtime.settings import SettingsError

from glowplug_imagecache.joining import open_cluster
from glowplug_imagecache.places import REPLICAS, BucketPlace, Keys, bucket_place, check_copies
from glowplug_imagecache.ports import Objects
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.store import Store


@contextlib.asynccontextmanager
async def open_store(shell: Shell[ImagecacheSettings], root: Path) -> AsyncIterator[Store]:
    """Yield the store. Raises: SettingsError; UnavailableError where the bucket can't be read."""
    settings = shell.settings
    try:
        if settings.store == REPLICAS:
            check_copies(settings.store_members, settings.store_copies)
        place = bucket_place(settings.store, settings.store_endpoint, settings.store_region)
    except ValueError as err:
        raise SettingsError(f"GLOWPLUG_IMAGECACHE_{err}") from None
    async with contextlib.AsyncExitStack() as stack:
        if settings.store == REPLICAS:
            cluster = await stack.enter_async_context(open_cluster(shell, root))
            yield await asyncio.to_thread(_shared, settings, root, shell.instance, cluster)
        elif place is not None:
            bucket = await asyncio.to_thread(_open_bucket, settings, place)
            stack.push_async_callback(asyncio.to_thread, bucket.close)
            yield await asyncio.to_thread(_shared, settings, root, shell.instance, bucket)
        else:
            yield await asyncio.to_thread(
                Store,
                root,
                free_bytes_min=settings.free_bytes_min,
                blob_bytes_max=settings.blob_bytes_max,
            )


def _shared(
    settings: ImagecacheSettings, root: Path, instance: str, objects: Objects
) -> SharedStore:
    return SharedStore(
        root,
        objects,
        instance,
        free_bytes_min=settings.free_bytes_min,
        blob_bytes_max=settings.blob_bytes_max,
        fresh_s=settings.evict_grace_s / 2,
        cache_bytes_max=settings.store_cache_bytes,
    )


def _open_bucket(settings: ImagecacheSettings, place: BucketPlace) -> Objects:
    from glowplug_imagecache.bucket import Bucket  # noqa: PLC0415 - loads a library of 15 MB

    bucket = Bucket(place, read_keys(settings.store_keys_file))
    try:
        bucket.head("scrub.json")  # what is wrong with the settings is told now
    except BaseException:
        bucket.close()
        raise
    return bucket


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
