"""Bring an image onto this host's disk: manifest, missing chunks in batches, then one rename.

Called by `LocalImages.ensure` when a container of the image is bound here. What is being written is a
temporary directory; the image exists when it has been renamed. Chunks are verified before their bytes
are written, and the manifest before any path of it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from glowplug_contracts.errors import ContractError, NotFoundError, PlatformError, RejectedError
from glowplug_contracts.ids import Digest, ImageDigest
from glowplug_contracts.manifests import ChunkFrame, chunk_sizes, decode_manifest, group_by_size
from glowplug_contracts.messages.image import BaseImage, ImageManifest
from glowplug_runtime.groups import leaves

from glowplug_worker.images.client import StoreClient
from glowplug_worker.images.tree import TreeWriter

# Two decompress and write while a third reads from the network.
FETCHERS = 3

# As registries call what Linux calls otherwise.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

ABOUT = "about.json"
LAYER = "layer"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an image's directory says beside its layer, so that a restart needs no manifest."""

    env: dict[str, str] = {}
    python_version: str = ""
    bytes_total: int = 0
    base: BaseImage | None = None


def check_host(manifest: ImageManifest, host: str) -> None:
    """Refuse an image of another host ("" fits every one). Raises: RejectedError."""
    if manifest.base is not None:
        _check_platform(manifest.base, host)
    if manifest.host not in ("", host):
        raise RejectedError(
            "image.unsupported",
            f"the image was built on {manifest.host!r} and this worker is {host!r}; "
            "deploy again to build it here",
        )


async def fetch_image(
    client: StoreClient, digest: ImageDigest, directory: Path, host: str
) -> About:
    """Fill a new `directory` with the image; return what it says about itself.

    Raises: NotFoundError (image.not_found), RejectedError (another host), ContractError (corrupt),
        UnavailableError.
    """
    manifest = await asyncio.to_thread(decode_manifest, await client.get(Digest(digest)))
    check_host(manifest, host)
    writer = await asyncio.to_thread(TreeWriter, directory / LAYER, manifest.entries)
    await fetch_chunks(client, chunk_sizes(manifest), writer.write)
    await asyncio.to_thread(writer.finish)
    about = About(
        env=manifest.env,
        python_version=manifest.python_version,
        bytes_total=manifest.bytes_total,
        base=manifest.base,
    )
    (directory / ABOUT).write_bytes(msgspec.json.encode(about))
    return about


async def fetch_chunks(
    client: StoreClient,
    sizes: Mapping[Digest, int],
    write: Callable[[Sequence[ChunkFrame]], None],
) -> None:
    """Fetch chunks in batches; `write` takes them in any order, in threads, one or two at a time.

    Raises: NotFoundError, ContractError, UnavailableError; OSError where `write` does.
    """
    batches = iter(group_by_size(sizes))

    async def fetch_batches() -> None:
        for batch in batches:  # shared: whoever is free takes the next one
            frames = await client.get_chunks(batch)
            check_complete(frames, batch)
            await asyncio.to_thread(write, frames)

    failed: BaseExceptionGroup[PlatformError | OSError] | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(FETCHERS):
                tasks.create_task(fetch_batches())
    except* (PlatformError, OSError) as group:
        failed = group  # before Python 3.11.4, what is raised in here comes out in a group
    if failed is not None:
        raise leaves(failed)[0] from failed  # both fail for the same reason


def _check_platform(base: BaseImage, host: str) -> None:
    """Refuse programs of another architecture: a host's identity ends with its own."""
    machine = host.rpartition("/")[2]
    own = ARCHITECTURES.get(machine, machine)
    asked = base.platform.split("/")
    if asked[:1] != ["linux"] or asked[1:2] != [own]:
        raise RejectedError(
            "image.unsupported",
            f"the image is for {base.platform} and this worker is {machine}; deploy again when workers of "
            "its kind are there, or take an image for this one",
        )


def check_complete(frames: Sequence[ChunkFrame], asked: Sequence[Digest]) -> None:
    """Check that an answer holds what was asked for. Raises: NotFoundError, ContractError."""
    for frame in frames:
        if frame.stored is None:
            raise NotFoundError(
                "image.not_found", f"imagecache has no chunk {frame.digest} any more; deploy again"
            )
    if [frame.digest for frame in frames] != list(asked):
        raise ContractError("image.corrupt", "imagecache sent other chunks than it was asked for")
