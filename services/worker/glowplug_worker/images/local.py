"""Images and sources on this host's disk: `ImageStore` of ports.py.

    images/<digest>/layer/       the extracted image; about.json beside it
    sources/<digest>/layer/      an unpacked source
    trees/<digest>/layer/        the root of an image of a registry, or of a model, where it is extracted whole
    models/<digest>/layer/       the root of a model, for containers that see the host's files

How things come to be there is `arrivals.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from glowplug_contracts.errors import PlatformError
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
from glowplug_runtime.replicas import Replicas
from glowplug_runtime.settings import inherited

from glowplug_worker.images.aptconfig import apt_config
from glowplug_worker.images.arrivals import Arrivals
from glowplug_worker.images.changed import Stored, store_changes
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.fetch import ABOUT, LAYER, About, fetch_image
from glowplug_worker.images.host import this_host
from glowplug_worker.images.kit import BuildKit, choose_cache, find_uv, make_kit, unfit_locals
from glowplug_worker.images.opening import Mounting, open_for_all, open_mounts
from glowplug_worker.images.pack import pack_layer
from glowplug_worker.images.pipconfig import PASSED_ON, PipConfig, read_pip_config
from glowplug_worker.images.sources import unpack_source
from glowplug_worker.images.tree import copy_tree
from glowplug_worker.ports import (
    ChangedRoot,
    LocalBase,
    LocalImage,
    Mounts,
    Pushed,
    pushed_unseen,
)

log = structlog.get_logger(__name__)

# A build that follows another finds the other's container still ending.
CACHE_WAIT_S = 3.0


class LocalImages:
    """See the module.

    Args:
        tasks: where syncing goes on in the background.
        mounts: what brings images of registries here, and models.
        opened: what brings models to containers without a root of their own, as whichever users they run.
        apt_proxy: what apt asks in builds; "" = where the image's lists say.
    """

    def __init__(
        self,
        data_dir: Path,
        client: StoreClient,
        host: str,
        tasks: asyncio.TaskGroup,
        environ: Mapping[str, str],
        mounts: Mounts,
        opened: Mounts,
        apt_proxy: str = "",
    ) -> None:
        self.host = host
        self.client = client
        self._images = data_dir / "images"
        self._sources = data_dir / "sources"
        self._arrivals = Arrivals((self._images, self._sources), tasks)
        self._tasks = tasks
        self._noting: set[asyncio.Task[None]] = set()
        self.mounts = mounts
        # For containers that see the host's own files.
        self.opened = opened
        self._held: dict[str, set[Digest]] = {}
        self._caches = data_dir / "uv-cache"
        self._caches_busy: dict[Path, str] = {}
        self._cache_freed = asyncio.Event()
        self._environ = environ
        self._apt = apt_config(apt_proxy, one_user=os.geteuid() != 0)
        self._pip: PipConfig | None = None

    async def ensure(self, digest: ImageDigest, holder: str = "") -> LocalImage:
        """Return the extracted image, fetched first where it is not here; its tree is held for `holder`."""
        directory = await self._ensure_layer(digest)
        about = await asyncio.to_thread(_read_about, directory)
        base = None
        env = about.env
        if about.base is not None:
            self._held.setdefault(holder, set()).add(about.base.tree)
            held = await self.mounts.hold(about.base.tree, holder)
            env = {**about.base.env, **about.env}
            base = LocalBase(
                root=held.root,
                python=about.base.python,
                path=about.base.path,
                cwd=await asyncio.to_thread(_usable_cwd, held.root, about.base.cwd),
            )
        return LocalImage(
            root=directory / LAYER, env=env, python_version=about.python_version, base=base
        )

    async def hold_tree(self, tree: Digest, holder: str, *, mounts: bool) -> Path:
        """Return the root of a tree that a container has beside its image, held for it."""
        self._held.setdefault(holder, set()).add(tree)
        held = await (self.mounts if mounts else self.opened).hold(tree, holder)
        return held.root

    async def release(self, holder: str) -> None:
        """Let go of the trees that a container had."""
        for tree in self._held.pop(holder, ()):
            await self.mounts.release(tree, holder)
            await self.opened.release(tree, holder)

    async def tend(self) -> None:
        """Keep what nobody holds any more within its bounds; called every few seconds."""
        await self.mounts.tend()
        await self.opened.tend()

    def started(self, holder: str) -> None:
        """The holder is ready: what of its tree was read until now is what a start reads."""
        for tree in self._held.get(holder, ()):
            noting = self._tasks.create_task(self._note_start(tree, holder), name="image started")
            self._noting.add(noting)
            noting.add_done_callback(self._noting.discard)

    def close(self) -> None:
        """Note nothing any more: imagecache may be away, and the end does not wait for a hint."""
        for noting in self._noting:
            noting.cancel()

    async def _note_start(self, tree: Digest, holder: str) -> None:
        try:
            await self.mounts.started(tree, holder)
        except PlatformError as err:  # the next start is slower than it might be
            log.warning("image.start_not_noted", tree=tree, error=str(err))

    def listen(self, lost: Callable[[Sequence[str]], None]) -> None:
        """Call `lost` with the holders of images that can't be read any more."""
        self.mounts.listen(lost)

    async def _ensure_layer(self, digest: ImageDigest) -> Path:
        """Return the directory of an image's layer, fetched first where it is not here."""
        directory = self._images / check_digest(digest)

        async def fill(new: Path) -> None:
            await fetch_image(self.client, digest, new, self.host)

        await self._arrivals.ensure(directory, fill)
        return directory

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

        await self._arrivals.ensure(directory, fill)
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
        below = await self._ensure_layer(parent) if parent else None
        layer = directory / LAYER
        await asyncio.to_thread(_begin_layer, below / LAYER if below else None, layer)
        own_root = False
        if below:
            own_root = (await asyncio.to_thread(_read_about, below)).base is not None
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
            own_root=own_root,
            apt=await asyncio.to_thread(self._apt_file, directory) if own_root else None,
        )

    def _apt_file(self, directory: Path) -> Path | None:
        """Write what apt is told, where it is told anything."""
        if not self._apt:
            return None
        path = directory / "apt.conf"
        path.write_text(self._apt, encoding="ascii")
        path.chmod(0o644)
        return path

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
        self,
        directory: Path,
        parent: ImageDigest,
        python_version: str,
        env: dict[str, str],
        changed: ChangedRoot | None = None,
        told: Pushed = pushed_unseen,
    ) -> LayerCommitted:
        """Pack a build container's layer, push what imagecache lacks, name the manifest.

        Of `parent` the base is kept, or what a build has `changed` it to; the layer already holds what else
        it began with.
        """
        about = ImageManifest(host=self.host, python_version=python_version, env=env, entries=())
        if parent:
            below = await asyncio.to_thread(_read_about, await self._ensure_layer(parent))
            if below.base is not None:
                about = msgspec.structs.replace(
                    about, host="", python_version=below.python_version, base=below.base
                )
        committed = await pack_layer(
            self.client,
            directory,
            about,
            ("/layer", str(directory)),
            self._changing(changed, told),
            told,
        )
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

    def _changing(
        self, changed: ChangedRoot | None, told: Pushed
    ) -> Callable[[], Awaitable[Stored]] | None:
        """Return what stores the changes of a build's root; None where it has none of its own."""
        if changed is None:
            return None

        async def store() -> Stored:
            began = await asyncio.to_thread(_read_about, await self._ensure_layer(changed.began))
            assert began.base is not None  # noqa: S101 - bringing saw to it
            return await store_changes(self.client, began.base.tree, changed.directory, told)

        return store

    def digests(self) -> Sequence[ImageDigest]:
        """Return the images that are on disk now."""
        return sorted(ImageDigest(path.name) for path in self._arrivals.here(self._images))

    def load(self) -> None:
        """At start: note what is here; remove what a crash left, or the disk may not have."""
        self._arrivals.load()


@contextlib.asynccontextmanager
async def open_images(
    data_dir: Path,
    url_of_imagecache: Callable[[], str | None] | Replicas,
    mounting: Mounting,
    apt_proxy: str = "",
) -> AsyncIterator[LocalImages]:
    """Open the worker's images under `data_dir`, filled from whichever imagecache answers.

    Raises: SettingsError if images are to be mounted in a way that does not work here.
    """
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(mounting.token))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        client = StoreClient(session, url_of_imagecache)
        mounts = await stack.enter_async_context(open_mounts(data_dir, client, tasks, mounting))
        opened = await open_for_all(data_dir, client, tasks, mounting)
        environ = inherited((*PASSED_ON, "HOME"))
        images = LocalImages(
            data_dir, client, this_host(), tasks, environ, mounts, opened, apt_proxy=apt_proxy
        )
        stack.callback(images.close)
        await asyncio.to_thread(images.load)
        yield images


def _begin_layer(base: Path | None, directory: Path) -> None:
    if base:
        copy_tree(base, directory)
    for name in ("bin", "site-packages"):
        (directory / name).mkdir(parents=True, exist_ok=True)


def _usable_cwd(root: Path, cwd: str) -> str:
    """Return a working directory if containers can be in it; "" where they can't. No link is followed."""
    at = root
    for part in cwd.strip("/").split("/"):
        at /= part
        try:
            mode = at.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return ""
        if not stat.S_ISDIR(mode) or not mode & stat.S_IXOTH:
            return ""
    return cwd


def _read_about(directory: Path) -> About:
    return msgspec.json.decode((directory / ABOUT).read_bytes(), type=About)
