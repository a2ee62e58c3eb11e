"""Finds an image in its registry and brings its layers: mirrors in order, tries, resumption, digests.

What is returned was checked: manifests and configurations are what their digests name, and a file has a
blob's name only once all its bytes were hashed. What broke off goes on where it stopped, also in another
process; the folder of the blobs belongs to one process at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from glowplug_contracts.errors import (
    ContractError,
    NotFoundError,
    TransientError,
    UnauthenticatedError,
)
from glowplug_runtime.clock import Clock

from glowplug_imagecache.registry.asking import Asker, read_body
from glowplug_imagecache.registry.downloads import Download
from glowplug_imagecache.registry.endpoints import Endpoint, Registries
from glowplug_imagecache.registry.guarding import open_session
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.registry.manifests import (
    ACCEPT,
    CONFIG_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    read_config,
    read_manifest,
    unsupported,
)
from glowplug_imagecache.registry.patience import Patience, pause_before
from glowplug_imagecache.registry.platforms import (
    Platform,
    choose_platform,
    closeness,
    no_platform,
)
from glowplug_imagecache.registry.reference import Reference, is_digest

# An index may name indexes; more levels than these are no image that anybody pushed.
INDEX_DEPTH_MAX: Final = 3
RANGE_REFUSED: Final = 416
# A whole download is made this often where its bytes come out wrong: a proxy may have mixed them up once.
WRONG_BYTES_MAX: Final = 2

Progress = Callable[[int], None]
T = TypeVar("T")


class RemoteLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer in a registry.

    Attributes:
        blob: its name as it travels, compressed.
        diff_id: the digest of its tar.
    """

    blob: Descriptor
    diff_id: str


class RemoteImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a registry, found and checked; its layers are still there.

    Attributes:
        reference: with the digest of the manifest that was chosen, so that it always is this very image.
    """

    reference: Reference
    platform: Platform
    config: ImageConfig
    layers: tuple[RemoteLayer, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all layers, as they travel."""
        return sum(layer.blob.size for layer in self.layers)


class Puller:
    """Pulls images.

    Args:
        chance: 0 … 1; for the length of pauses.
    """

    def __init__(
        self,
        asker: Asker,
        registries: Registries,
        clock: Clock,
        patience: Patience,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._asker = asker
        self._registries = registries
        self._clock = clock
        self._patience = patience
        self._chance = chance
        self._downloading: weakref.WeakValueDictionary[Path, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    async def find(
        self,
        reference: Reference,
        platform: Platform,
        credentials: Mapping[str, Credentials] | None = None,
    ) -> RemoteImage:
        """Return the image for a platform.

        Args:
            credentials: by the registry's (or mirror's) host, as in the reference.

        Raises: NotFoundError, UnauthenticatedError, TransientError, ContractError (registry.corrupt),
            InvalidRequestError (registry.no_platform, registry.unsupported), ForbiddenError.
        """
        known = credentials or {}
        chosen = reference
        for _ in range(INDEX_DEPTH_MAX):
            document, digest = await self._manifest(chosen, known)
            if isinstance(document, Manifest):
                return await self._image(
                    msgspec.structs.replace(reference, digest=digest), document, platform, known
                )
            position = choose_platform([one.platform for one in document.entries], platform)
            chosen = msgspec.structs.replace(
                reference, tag="", digest=document.entries[position].digest
            )
        raise unsupported(f"has indexes in indexes, more than {INDEX_DEPTH_MAX} deep")

    async def fetch(
        self,
        image: RemoteImage,
        layer: RemoteLayer,
        folder: Path,
        credentials: Mapping[str, Credentials] | None = None,
        on_bytes: Progress | None = None,
    ) -> Path:
        """Bring a layer's blob; return its file, whose bytes were checked.

        There is no limit on the whole time, since a layer may be large: whoever waits sets one. What a
        cancelled fetch has brought serves the next.

        Args:
            folder: where blobs lie, named by digest; what broke off lies beside them.
            on_bytes: hears how many bytes are there, after each piece.

        Raises: as `find`, and UnavailableError (registry.no_room).
        """
        target = folder / file_name(layer.blob.digest)
        lock = self._downloading.setdefault(target, asyncio.Lock())
        async with lock:
            download = Download(target, layer.blob, on_bytes)
            # Of an earlier pull; disks forget, and what was wrong once would stay so.
            if await download.is_there():
                return target

            async def ask(endpoint: Endpoint, mine: Credentials | None) -> None:
                await self._download(endpoint, mine, image.reference, download)

            await self._somewhere(
                image.reference,
                credentials or {},
                ask,
                lambda: download.furthest // self._patience.progress_bytes,
            )
            return target

    async def _image(
        self,
        reference: Reference,
        manifest: Manifest,
        platform: Platform,
        credentials: Mapping[str, Credentials],
    ) -> RemoteImage:
        data = await self._blob(reference, manifest.config, credentials)
        config = read_config(data, manifest)
        if closeness(config.platform, platform) is None:
            raise no_platform(platform, str(config.platform) or "a platform that it does not name")
        layers = tuple(
            RemoteLayer(blob=blob, diff_id=diff_id)
            for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )
        return RemoteImage(
            reference=reference, platform=config.platform, config=config, layers=layers
        )

    async def _manifest(
        self, reference: Reference, credentials: Mapping[str, Credentials]
    ) -> tuple[Index | Manifest, str]:
        """Return what the tag or digest stands for, and its digest."""

        async def ask(endpoint: Endpoint, mine: Credentials | None) -> tuple[Index | Manifest, str]:
            url = endpoint.url_of(reference, "manifests", reference.target)
            headers = {"Accept": ACCEPT}
            async with self._asker.ask(endpoint, url, reference.scope, mine, headers) as answer:
                data = await read_body(answer, MANIFEST_BYTES_MAX)
                said = answer.headers.get("Docker-Content-Digest", "")
                # A registry says what a tag stands for; a mirror that says nothing is taken by its word.
                digest = reference.digest or (said if is_digest(said) else _digest(data, "sha256"))
                check_bytes(data, digest, len(data), endpoint)
                return read_manifest(data, answer.headers.get("Content-Type", "")), digest

        return await self._somewhere(reference, credentials, ask)

    async def _blob(
        self, reference: Reference, blob: Descriptor, credentials: Mapping[str, Credentials]
    ) -> bytes:
        async def ask(endpoint: Endpoint, mine: Credentials | None) -> bytes:
            url = endpoint.url_of(reference, "blobs", blob.digest)
            async with self._asker.ask(endpoint, url, reference.scope, mine, {}) as answer:
                data = await read_body(answer, CONFIG_BYTES_MAX)
            check_bytes(data, blob.digest, blob.size, endpoint)
            return data

        return await self._somewhere(reference, credentials, ask)

    async def _download(
        self,
        endpoint: Endpoint,
        mine: Credentials | None,
        reference: Reference,
        download: Download,
    ) -> None:
        """Get on with a download as far as one connection goes; done when this returns."""
        url = endpoint.url_of(reference, "blobs", download.blob.digest)
        for _ in range(WRONG_BYTES_MAX):
            have = await download.open()
            headers = {"Range": f"bytes={have}-"} if have else {}
            if have < download.blob.size:
                async with self._asker.ask(
                    endpoint, url, reference.scope, mine, headers, also=(RANGE_REFUSED,)
                ) as answer:
                    await download.take(answer)
            if await download.finish():
                return
        raise wrong_bytes(endpoint, download.blob.digest)

    async def _somewhere(
        self,
        reference: Reference,
        credentials: Mapping[str, Credentials],
        ask: Callable[[Endpoint, Credentials | None], Awaitable[T]],
        got: Callable[[], int] = lambda: 0,
    ) -> T:
        """Return what the first server gives that can; the registry itself has the last word."""
        *mirrors, home = self._registries.endpoints(reference.host)
        for mirror in mirrors:
            try:
                return await self._again(
                    lambda mirror=mirror: ask(mirror, credentials.get(mirror.host)),  # type: ignore[misc]
                    self._patience.mirror_tries_max,
                    got,
                )
            except (TransientError, NotFoundError, UnauthenticatedError, ContractError) as err:
                if err.code == "registry.no_room":
                    raise
        return await self._again(
            lambda: ask(home, credentials.get(home.host)), self._patience.tries_max, got
        )

    async def _again(
        self, once: Callable[[], Awaitable[T]], tries_max: int, got: Callable[[], int]
    ) -> T:
        """Return what `once` gives; ask again as long as that helps, and anew while it gets on."""
        tries, before = 0, got()
        while True:
            try:
                return await once()
            except TransientError as err:
                if (now := got()) > before:
                    tries, before = 0, now
                tries += 1
                pause = pause_before(tries, err.retry_after_s, self._patience, self._chance())
                if tries >= tries_max or pause is None or err.code == "registry.no_room":
                    raise
            await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def open_puller(
    registries: Registries, clock: Clock, patience: Patience | None = None
) -> AsyncIterator[Puller]:
    """Yield a client of registries."""
    patience = patience or Patience()
    async with open_session(registries.networks, patience) as session:
        yield Puller(Asker(session, registries, clock), registries, clock, patience)


def file_name(digest: str) -> str:
    """Return the name of a blob's file; what broke off of it has PART behind that."""
    return digest.replace(":", "-")


def check_bytes(data: bytes, digest: str, size: int, endpoint: Endpoint) -> None:
    """Raise ContractError (registry.corrupt) unless these are the bytes that a digest names."""
    if len(data) != size or _digest(data, digest.partition(":")[0]) != digest:
        raise wrong_bytes(endpoint, digest)


def wrong_bytes(endpoint: Endpoint, digest: str) -> ContractError:
    """Return the error for bytes that are not what their name says."""
    return ContractError(
        "registry.corrupt",
        f"what {endpoint.host} sent for {digest} are other bytes; none were kept",
    )


def _digest(data: bytes, algorithm: str) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
