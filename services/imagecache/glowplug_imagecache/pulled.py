"""The first step of a build on an image of a registry: what its name stands for, and having that here.

A tag is looked up once for each build, and what it stood for then is what the step is called by: the same
digest is never pulled twice for a workspace, and a tag that moved is. A name with a digest is not even looked
up where its step is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import msgspec
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.messages.image import ImageManifest
from glowplug_runtime.service import Shell
from glowplug_runtime.settings import SettingsError

from glowplug_imagecache.askers import Askers
from glowplug_imagecache.asking_gateways import Gateways
from glowplug_imagecache.bases import Bases, Logins, Say, logins_for, open_bases
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.metering import Far
from glowplug_imagecache.plan import Target, brings_python
from glowplug_imagecache.registry.endpoints import Registries, parse_registries
from glowplug_imagecache.registry.patience import Patience
from glowplug_imagecache.registry.pulling import RemoteImage
from glowplug_imagecache.registry.reference import parse_reference
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

Hold = Callable[[int], Awaitable[None]]


class Sources(msgspec.Struct, frozen=True):
    """Where bases come from, and who knows what registries want to be shown."""

    bases: Bases
    gateways: Gateways


class BaseStep:
    """One build's base; does nothing for the host's."""

    def __init__(
        self,
        sources: Sources,
        spec: ImageSpec,
        askers: Askers,
        say: Say,
        far: Far,
        *,
        python_later: bool = False,
    ) -> None:
        self._python_later = python_later
        self._sources = sources
        self._spec = spec
        self._askers = askers
        self._say, self._far = say, far
        self._found: RemoteImage | None = None
        self._logins: Logins | None = None

    async def pin(self, target: Target) -> Target:
        """Return the target with what the base's name stands for. Raises: PlatformError."""
        if self._spec.on_host:
            return target
        reference = parse_reference(self._spec.base)
        if not reference.digest:
            reference = (await self._find(str(reference), target.platform)).reference
        return msgspec.structs.replace(target, reference=str(reference))

    async def pull(self, target: Target, hold: Hold, like: Sequence[Digest] = ()) -> ImageManifest:
        """Return the base; trees that are `like` it may lend it packs. Raises: PlatformError.

        `hold` is told how many bytes it comes to and refuses what is too many: first what the registry says
        of the layers, before anything of them is brought, then what the tree really has.
        """
        found = self._found or await self._find(target.reference, target.platform)
        with self._explained():
            await hold(found.size)
            manifest = await self._sources.bases.pull(
                found,
                self._spec.python_version,
                await self._open(),
                self._say,
                like,
                python_later=self._python_later or brings_python(self._spec),
                far=self._far,
            )
            await hold(manifest.bytes_total)
            return manifest

    async def _find(self, name: str, platform: str) -> RemoteImage:
        with self._explained():
            logins = await self._open()
            self._found = await self._sources.bases.find(name, platform, logins)
        return self._found

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say with an error which image it is about."""
        try:
            yield
        except PlatformError as err:
            raise type(err)(
                err.code,
                f"{self._spec.base} can't be pulled: {err.message}",
                retry_after_s=err.retry_after_s,
                details=err.details,
            ) from err

    async def _open(self) -> Logins:
        """Return what to show to the registry, asked for once."""
        if self._logins is None:
            credentials = None
            if self._spec.credentials:
                credentials = await self._sources.gateways.credentials(self._askers.names)
            self._logins = logins_for(parse_reference(self._spec.base), credentials)
        return self._logins


@contextlib.asynccontextmanager
async def open_sources(
    shell: Shell[ImagecacheSettings], store: Store, data_dir: Path
) -> AsyncIterator[Sources]:
    """Yield where bases come from, as the settings say. Raises: SettingsError."""
    settings = shell.settings

    def urls() -> Sequence[str]:
        beats = shell.peers.services()
        return [beat.url for beat in beats if beat.service == "gateway" and beat.ready and beat.url]

    headers = {"Authorization": f"Bearer {shell.internal_token()}"}
    async with (
        open_bases(
            store,
            data_dir,
            shell.clock,
            registries_of(settings),
            patience=Patience(tries_max=settings.registry_tries),
            bounds=Bounds(
                bytes_max=settings.image_bytes_max, entries_max=settings.image_entries_max
            ),
            free_bytes_min=settings.free_bytes_min,
        ) as bases,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        yield Sources(bases, Gateways(session, urls))


def registries_of(settings: ImagecacheSettings) -> Registries:
    """Return what the operator says about registries. Raises: SettingsError."""
    try:
        return parse_registries(
            settings.registry_mirrors, settings.registry_plain, settings.registry_networks
        )
    except ValueError as err:
        raise SettingsError(f"GLOWPLUG_IMAGECACHE_REGISTRY_*: {err}") from err
