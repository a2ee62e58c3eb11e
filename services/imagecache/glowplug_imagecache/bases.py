"""Images of registries as bases of ours: found, pulled, flattened, kept as a manifest.

Layers come to a folder of this process and stay for a while, since other images share them; only the
finished tree's content is stored. What fails leaves what was brought, so that the next try goes on there, and
nothing that could be served.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.image import BaseImage, ImageManifest
from glowplug_runtime.clock import Clock
from glowplug_runtime.groups import leaves

from glowplug_imagecache.flattening import Flat, flatten_layers
from glowplug_imagecache.folders import LayerFolder, touch
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.metering import Far, Meter, nobody, tell_while
from glowplug_imagecache.pythons import find_any_python, find_python
from glowplug_imagecache.registry.endpoints import Registries
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.registry.patience import Patience
from glowplug_imagecache.registry.platforms import parse_platform
from glowplug_imagecache.registry.pulling import (
    Puller,
    RemoteImage,
    RemoteLayer,
    file_name,
    open_puller,
)
from glowplug_imagecache.registry.reference import Reference, parse_reference
from glowplug_imagecache.stopping import in_thread
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

LAYERS_AT_ONCE: Final = 3
# Layers may be used by an image that comes soon after.
LAYERS_KEPT_S: Final = 3600.0
ENV_MAX: Final = 1000
_MIB: Final = 1024 * 1024

Say = Callable[[str], Awaitable[None]]
Logins = Mapping[str, Credentials]


class Bases:
    """See the module.

    Args:
        free_bytes_min: a pull that would leave less on the disk is refused before it begins.
    """

    def __init__(
        self,
        puller: Puller,
        store: Store,
        folder: LayerFolder,
        clock: Clock,
        *,
        bounds: Bounds,
        free_bytes_min: int,
    ) -> None:
        self._puller = puller
        self._store = store
        self._folder = folder
        self._clock = clock
        self._bounds = bounds
        self._free_bytes_min = free_bytes_min
        # Names of layers' files -> how many pulls need them now.
        self._pulling: Counter[str] = Counter()

    async def find(self, name: str, platform: str, logins: Logins) -> RemoteImage:
        """Return what a name stands for now; its reference has the digest. Raises: PlatformError."""
        return await self._puller.find(parse_reference(name), parse_platform(platform), logins)

    async def pull(
        self,
        image: RemoteImage,
        python_version: str,
        logins: Logins,
        say: Say,
        like: Sequence[Digest] = (),
        *,
        python_later: bool = False,
        far: Far = nobody,
    ) -> ImageManifest:
        """Return the image as a base, its tree stored.

        Args:
            python_version: the minor version that is wanted; "" = the one that the image has.
            say: told what happens, as lines.
            like: trees that are likely to have much of it, the likeliest first.
            python_later: whether steps that come after may bring the Python.
            far: told how far it is, in bytes.

        Raises: PlatformError: as `Puller.fetch` and `flatten_layers`; RejectedError (image.unsupported).
        """
        await asyncio.to_thread(self._folder.check_room, image.size, self._free_bytes_min)
        with self._in_use(image):
            files = await self._fetch(image, logins, far)
            await say(f"{image.size / _MIB:.1f} MiB in {len(files)} layers are here\n")
            await say(f"unpacking {len(files)} layers\n")
            flat = await self._flatten(image, files, like, far)
        path, env = split_env(image.config.config.env)
        find = find_any_python if python_later else find_python
        python = await asyncio.to_thread(find, flat.tree, path, python_version)
        log.info(
            "base.pulled",
            reference=str(image.reference),
            tree=flat.digest,
            entries=len(flat.tree.entries),
            left_out=flat.left_out,
            python=python.version,
        )
        for why, count in flat.left_out.items():
            await say(f"left out: {count} x {why}\n")
        if python.executable:
            await say(f"Python {python.version} at {python.executable}\n")
        tree = flat.tree
        return ImageManifest(
            host="",
            python_version=python.version,
            entries=(),
            base=BaseImage(
                reference=str(image.reference),
                platform=str(image.platform),
                tree=flat.digest,
                python=python.executable,
                env=env,
                path=path,
                cwd=working_dir(image.config.config.working_dir),
            ),
            bytes_total=sum(each.size for each in (*tree.packs, *tree.pieces)),
        )

    async def sweep(self) -> None:
        """Remove layers that nobody has used for a while, and what replicas that are gone left."""
        before = self._clock.unix() - LAYERS_KEPT_S
        await asyncio.to_thread(self._folder.sweep, before, frozenset(self._pulling))
        await asyncio.to_thread(self._folder.sweep_others, before)

    @contextlib.contextmanager
    def _in_use(self, image: RemoteImage) -> Iterator[None]:
        """Keep an image's layers from being swept: the last one may come long after the first."""
        names = Counter(file_name(layer.blob.digest) for layer in image.layers)
        self._pulling.update(names)
        try:
            yield
        finally:
            self._pulling -= names

    async def _fetch(self, image: RemoteImage, logins: Logins, far: Far) -> list[tuple[Path, str]]:
        """Bring all layers, a few at a time; return their files, lowest first."""
        there: dict[int, int] = {}
        meter = Meter(image.size)
        room = asyncio.Semaphore(LAYERS_AT_ONCE)

        def has(number: int, have: int) -> None:
            there[number] = have
            meter.at(sum(there.values()))

        async def fetch(number: int, layer: RemoteLayer) -> tuple[Path, str]:
            async with room:
                path = await self._puller.fetch(
                    image, layer, self._folder.path, logins, lambda have: has(number, have)
                )
            has(number, layer.blob.size)
            await asyncio.to_thread(touch, path, self._clock.unix())
            return path, layer.diff_id

        fetching: list[asyncio.Task[tuple[Path, str]]] = []
        failed: BaseExceptionGroup[PlatformError | OSError] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                fetching += [
                    tasks.create_task(fetch(number, layer))
                    for number, layer in enumerate(image.layers)
                ]
                await tell_while(fetching, "downloading", meter, far)
        except* (PlatformError, OSError) as group:
            failed = group  # raised outside, since what is raised in here comes out in a group
        if failed is not None:
            raise leaves(failed)[0] from failed  # layers fail for the same reason
        return [task.result() for task in fetching]

    async def _flatten(
        self,
        image: RemoteImage,
        files: list[tuple[Path, str]],
        like: Sequence[Digest],
        far: Far,
    ) -> Flat:
        """Flatten in a thread, which a cancelled build does not leave behind."""
        meter = Meter()

        def flatten(check: Callable[[], None]) -> Flat:
            return flatten_layers(self._store, files, self._bounds, check, like, meter)

        return await in_thread(
            flatten,
            f"the pull of {image.reference}",
            lambda work: tell_while([work], "unpacking", meter, far),
        )


@contextlib.asynccontextmanager
async def open_bases(
    store: Store,
    data_dir: Path,
    clock: Clock,
    registries: Registries,
    *,
    patience: Patience,
    bounds: Bounds,
    free_bytes_min: int,
) -> AsyncIterator[Bases]:
    """Yield what pulls images, with a folder of its own for their layers."""
    folder = await asyncio.to_thread(LayerFolder, data_dir / "layers")
    try:
        async with open_puller(registries, clock, patience) as puller:
            yield Bases(puller, store, folder, clock, bounds=bounds, free_bytes_min=free_bytes_min)
    finally:
        folder.close()


def split_env(lines: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Return an image's PATH and its other variables; what can't be a variable is left out."""
    env: dict[str, str] = {}
    for line in lines[:ENV_MAX]:
        name, equals, value = line.partition("=")
        if name and equals and "\0" not in line and not name.startswith("GLOWPLUG_"):
            env[name] = value
    return env.pop("PATH", ""), env


def working_dir(text: str) -> str:
    """Return an image's working directory; "" for one that is no plain absolute path."""
    plain = text.startswith("/") and "\0" not in text and ".." not in text.split("/")
    return text if plain and text.strip("/") else ""


def logins_for(reference: Reference, credentials: Credentials | None) -> Logins:
    """Return whom to show credentials: the registry that the image's name says, nobody else."""
    return {} if credentials is None else {reference.host: credentials}
