"""Store a build container's layer: hash everything, push what imagecache lacks, name the manifest.

The last thing a build asks of its worker. Files are read twice, once to name them and once more only
where imagecache lacks them, so an unchanged package costs one hash and no transfer. At most
BATCH_BYTES_MAX are held at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from glowplug_contracts.errors import InvalidRequestError, PlatformError
from glowplug_contracts.ids import ImageDigest
from glowplug_contracts.manifests import (
    chunk_sizes,
    decode_manifest,
    encode_manifest,
    group_by_size,
)
from glowplug_contracts.messages.container import LayerCommitted
from glowplug_contracts.messages.image import ImageManifest
from glowplug_contracts.messages.invocation import RemoteError

from glowplug_worker.images.changed import Stored
from glowplug_worker.images.client import StoreClient
from glowplug_worker.images.objects import frame_of
from glowplug_worker.images.tree import LayerReader
from glowplug_worker.ports import Pushed, pushed_unseen


async def pack_layer(
    client: StoreClient,
    directory: Path,
    manifest: ImageManifest,
    layer_paths: Sequence[str],
    changing: Callable[[], Awaitable[Stored]] | None = None,
    told: Pushed = pushed_unseen,
) -> LayerCommitted:
    """Store the layer in `directory`, with `manifest` saying everything but its entries.

    `layer_paths`: how the container may spell its layer's root. `changing` stores what became of the image's
    root, where a build may change it. `told` hears how many of the bytes that imagecache lacked are there.
    Content that an image can't hold, and an imagecache that does not answer, are reported in `error`.
    """
    try:
        reader = LayerReader(directory, layer_paths)
        try:
            changed = await changing() if changing is not None else None
            return await _pack(client, reader, manifest, changed, told)
        finally:
            reader.close()
    except InvalidRequestError as err:
        return _refused("image.build_failed", f"the image can't be stored: {err}")
    except PlatformError as err:
        return _refused(err.code, f"the image could not be stored: {err}")
    except OSError as err:  # the build's own processes changed or removed what was being read
        return _refused("image.build_failed", f"the image can't be read: {err}")


async def _pack(
    client: StoreClient,
    reader: LayerReader,
    about: ImageManifest,
    changed: Stored | None,
    told: Pushed,
) -> LayerCommitted:
    entries = await asyncio.to_thread(reader.entries)
    base, of_root = about.base, 0
    if changed is not None and base is not None:
        base, of_root = msgspec.structs.replace(base, tree=changed.tree), changed.bytes_total
    manifest = msgspec.structs.replace(
        about,
        entries=tuple(entries),
        base=base,
        bytes_total=of_root + sum(entry.size for entry in entries),
    )
    data = await asyncio.to_thread(encode_manifest, manifest)
    decode_manifest(data)  # whatever is stored must be readable
    pushed = await _push_missing(client, reader, manifest, told)
    pushed += changed.bytes_pushed if changed is not None else 0
    digest = await client.put(data, keep_s=0)
    return LayerCommitted(
        image_digest=ImageDigest(digest),
        bytes_total=manifest.bytes_total,
        bytes_pushed=pushed,
        files=sum(entry.kind == "file" for entry in entries),
    )


async def _push_missing(
    client: StoreClient, reader: LayerReader, manifest: ImageManifest, told: Pushed
) -> int:
    sizes = chunk_sizes(manifest)
    places = {
        chunk.digest: (entry.path, chunk) for entry in manifest.entries for chunk in entry.chunks
    }
    missing = {digest: sizes[digest] for digest in await client.missing(list(sizes))}
    done, total = 0, sum(missing.values())
    for batch in group_by_size(missing):
        await told(done, total)
        frames = await asyncio.to_thread(
            lambda batch: [frame_of(reader.piece(*places[digest])) for digest in batch], batch
        )
        await client.put_chunks(frames)
        done += sum(missing[digest] for digest in batch)
    await told(done, total)
    return total


def _refused(code: str, message: str) -> LayerCommitted:
    return LayerCommitted(error=RemoteError(code=code, type="ImageBuildError", message=message))
