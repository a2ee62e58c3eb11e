"""Images and sources on this host's disk: `ImageStore` of ports.py.

    images/<digest>/layer/       the extracted image; about.json beside it
    sources/<digest>/layer/      an unpacked source
    <digest>.safe                beside each: the disk has it all, a power cut can't have torn it

Containers that start at the same time share one fetch. A thing exists when its directory has its name;
until the disk has synced it lacks its `.safe` mark, and a start of the worker removes what lacks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import (
    ContainerId,
    Digest,
    ImageDigest,
    WorkspaceId,
    check_digest,
    check_token,
)
from glowplug_contracts.messages.container import LayerCommitted
from glowplug_contracts.messages.image import ImageManifest
from glowplug_runtime.settings import inherited
from glowplug_runtime.trees import remove_tree

from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.fetch import ABOUT, LAYER, About, fetch_image
from glowplug_worker.images.host import this_host
from glowplug_worker.images.kit import BuildKit, choose_cache, find_uv, make_kit, unfit_locals
from glowplug_worker.images.pack import pack_layer
from glowplug_worker.images.pipconfig import PASSED_ON, PipConfig, read_pip_config
from glowplug_worker.images.sources import unpack_source
from glowplug_worker.images.tree import copy_tree
from glowplug_worker.ports import LocalImage

log = structlog.get_logger(__name__)

# A build that follows another finds the other's container still ending.
CACHE_WAIT_S = 3.0

Fill = Callable[[Path], Awaitable[None]]


class LocalImages:
    """See the module. `tasks`: where syncing goes on in the background."""

    def __init__(
        self,
        data_dir: Path,
        client: StoreClient,
        host: str,
        tasks: asyncio.TaskGroup,
        environ: Mapping[str, str],
    ) -> None:
        self.host = host
        self.client = client
        self._tasks = tasks
        self._images = data_dir / "images"
        self._sources = data_dir / "sources"
        self._caches = data_dir / "uv-cache"
        self._caches_busy: dict[Path, str] = {}
        self._cache_freed = asyncio.Event()
        self._environ = environ
        self._pip: PipConfig | None = None
        self._here: set[Path] = set()
        self._arriving: dict[Path, asyncio.Lock] = {}
        self._syncing = asyncio.Lock()

    async def ensure(self, digest: ImageDigest) -> LocalImage:
        """Return the extracted image, fetched first where it is not here."""
        directory = self._images / check_digest(digest)

        async def fill(new: Path) -> None:
            await fetch_image(self.client, digest, new, self.host)

        await self._ensure(directory, fill)
        about = await asyncio.to_thread(_read_about, directory)
        return LocalImage(
            root=directory / LAYER, env=about.env, python_version=about.python_version
        )

    async def ensure_source(self, digest: Digest, owner: WorkspaceId) -> Path:
        """Return the directory that a source zip was unpacked to.

        What two workspaces sent alike is here once: a gateway lets nobody deploy what is not theirs.
        """
        directory = self._sources / check_digest(digest)

        async def fill(new: Path) -> None:
            archive = new / "source.zip"
            await self.client.fetch(digest, archive, owner)
            await asyncio.to_thread(unpack_source, archive, new / LAYER)
            archive.unlink()

        await self._ensure(directory, fill)
        return directory / LAYER

    async def prepare_build(
        self,
        container_id: ContainerId,
        workspace: WorkspaceId,
        parent: ImageDigest,
        directory: Path,
        python: Path,
        *,
        mounts: bool,
    ) -> BuildKit:
        """Make a build container's writable layer; return what else the container needs.

        Args:
            parent: the image that the build begins with; "" = nothing.
            directory: the container's own; `layer` in it is what `commit` takes later.
            python: executable of the interpreter that the image is for.
            mounts: `Backend.mounts`.
        """
        base = (await self.ensure(parent)).root if parent else None
        layer = directory / LAYER
        await asyncio.to_thread(_begin_layer, base, layer)
        if self._pip is None:
            self._pip = await read_pip_config(self._environ)
            log.info(
                "pip.configured",
                options=sorted(self._pip.env),
                ignored=self._pip.ignored,
                not_visible=unfit_locals(self._pip.local),
            )
        cache = await self._take_cache(
            self._caches / check_token(workspace), directory / "uv-cache", container_id
        )
        await asyncio.to_thread(cache.mkdir, parents=True, exist_ok=True)
        return make_kit(
            pip=self._pip,
            uv_binary=find_uv(),
            layer=layer,
            cache=cache,
            python=python,
            mounts=mounts,
        )

    def end_build(self, container_id: ContainerId) -> None:
        """A build container has ended: give back the workspace's cache, if it had it."""
        self._caches_busy = {
            cache: holder for cache, holder in self._caches_busy.items() if holder != container_id
        }
        self._cache_freed.set()

    async def _take_cache(self, shared: Path, own: Path, container_id: ContainerId) -> Path:
        """Return the workspace's cache, waiting a little for a build that is just ending."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CACHE_WAIT_S):
                while choose_cache(self._caches_busy, shared, own, container_id) != shared:
                    self._cache_freed.clear()
                    await self._cache_freed.wait()
        cache = choose_cache(self._caches_busy, shared, own, container_id)
        self._caches_busy.setdefault(shared, container_id)
        return cache

    async def commit(
        self, directory: Path, parent: ImageDigest, python_version: str, env: dict[str, str]
    ) -> LayerCommitted:
        """Pack a build container's layer, push what imagecache lacks, name the manifest.

        `parent` is only logged: the layer already holds what it began with.
        """
        about = ImageManifest(host=self.host, python_version=python_version, env=env, entries=())
        committed = await pack_layer(self.client, directory, about, ("/layer", str(directory)))
        log.info(
            "image.committed",
            image_digest=committed.image_digest,
            parent=parent,
            files=committed.files,
            bytes_total=committed.bytes_total,
            bytes_pushed=committed.bytes_pushed,
            error=committed.error.message if committed.error else "",
        )
        return committed

    def digests(self) -> Sequence[ImageDigest]:
        """Return the images that are on disk now."""
        return sorted(ImageDigest(path.name) for path in self._here if path.parent == self._images)

    def load(self) -> None:
        """At start: note what is here; remove what a crash left, or the disk may not have."""
        for room in (self._images, self._sources):
            room.mkdir(parents=True, exist_ok=True)
            for path in room.iterdir():
                if not path.is_dir():
                    continue
                if _mark(path).exists() and _is_named(path.name):
                    self._here.add(path)
                else:
                    remove_tree(path)

    async def _ensure(self, directory: Path, fill: Fill) -> None:
        """Have `directory`, made by `fill`, which only one of those who ask at once runs."""
        if directory in self._here:
            return
        async with self._arriving.setdefault(directory, asyncio.Lock()):
            if directory not in self._here:
                await self._arrive(directory, fill)
        self._arriving.pop(directory, None)

    async def _arrive(self, directory: Path, fill: Fill) -> None:
        new = Path(tempfile.mkdtemp(prefix="new-", dir=directory.parent))
        try:
            await fill(new)
            await asyncio.to_thread(_name, new, directory)
            self._here.add(directory)
        finally:
            await asyncio.to_thread(remove_tree, new)
        self._tasks.create_task(self._make_safe(directory), name=f"sync {directory.name[:12]}")

    async def _make_safe(self, directory: Path) -> None:
        async with self._syncing:
            try:
                await asyncio.to_thread(_sync_and_mark, directory)
            except OSError as err:  # fetched again after the next start; nothing else is wrong
                log.warning("image.not_synced", directory=directory.name, error=str(err))


@contextlib.asynccontextmanager
async def open_images(
    data_dir: Path, url_of_imagecache: Callable[[], str | None], token: str
) -> AsyncIterator[LocalImages]:
    """Open the worker's images under `data_dir`, filled from whichever imagecache answers."""
    async with open_session(token) as session, asyncio.TaskGroup() as tasks:
        client = StoreClient(session, url_of_imagecache)
        images = LocalImages(data_dir, client, this_host(), tasks, inherited((*PASSED_ON, "HOME")))
        await asyncio.to_thread(images.load)
        yield images


def _begin_layer(base: Path | None, directory: Path) -> None:
    if base:
        copy_tree(base, directory)
    for name in ("bin", "site-packages"):
        (directory / name).mkdir(parents=True, exist_ok=True)


def _read_about(directory: Path) -> About:
    return msgspec.json.decode((directory / ABOUT).read_bytes(), type=About)


def _name(new: Path, directory: Path) -> None:
    new.chmod(0o755)
    new.rename(directory)


def _mark(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.safe")


def _sync_and_mark(directory: Path) -> None:
    os.sync()
    _mark(directory).touch()


def _is_named(name: str) -> bool:
    try:
        check_digest(name)
    except InvalidRequestError:
        return False
    return True
