"""Trees as lazy mounts: `Mounts` of ports.py on EROFS, the holder and the daemon.

One holder and one daemon serve all trees of a worker. The daemon may end at any time: another one is started, and
readers wait for it. Were the holder to end, this process still owns the group (FUSE: the doors), so readers wait while
their containers are ended; its mounts are given up then: a successor refuses what would have to be fetched and
unmounts, and later holds mount afresh. What is all here needs neither, but with FUSE.

What was fetched of a tree stays when it is unmounted, and when the worker ends, until its room is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import FlatTree
from glowplug_runtime.clock import Clock

from glowplug_worker.images.mounts import hot, kept, kernel
from glowplug_worker.images.mounts.channel import Channel
from glowplug_worker.images.mounts.files import Home, Whole, make_devices, write_metadata
from glowplug_worker.images.mounts.fuse import mount_options
from glowplug_worker.images.mounts.held import Tree, both, mounting, whole
from glowplug_worker.images.mounts.hot import HotLists, NoHotLists
from glowplug_worker.images.mounts.kept import Kept, bytes_of, salvage
from glowplug_worker.images.mounts.pair import Pair, Service, Spawn, must
from glowplug_worker.images.mounts.probe import Choice
from glowplug_worker.images.mounts.sources import TreeSource
from glowplug_worker.images.room import Stay, bound_of, leaving
from glowplug_worker.ports import HeldTree
from glowplug_worker.runtime.leftovers import unmount_below

log = structlog.get_logger()

# Nobody has held a tree for so long: it is unmounted.
KEEP_S: Final = 900.0
# What a start is known to read is fetched first, but a start does not wait longer for it.
PREFETCH_S: Final = 30.0
# And for the list of it.
HOT_S: Final = 2.0
_FUSE: Final = "/dev/fuse"
_IN_USE: Final = "in use"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How long, how much, and what else is known.

    Attributes:
        keep_s: how long a tree stays mounted that nobody holds.
        bytes_max: what trees may take on the disk, `room.bound_of`.
    """

    hot_lists: HotLists = NoHotLists()
    keep_s: float = KEEP_S
    bytes_max: int = 0


_USUAL: Final = Terms()


class LazyMounts:
    """See the module. Opened by `open_lazy_mounts`."""

    def __init__(
        self,
        directory: Path,
        keeps: Kept,
        source: TreeSource,
        words: Callable[[], Mapping[str, object]],
        clock: Clock,
        spawn: Spawn,
        choice: Choice,
        terms: Terms,
    ) -> None:
        self._directory, self._kept, self._source = directory, keeps, source
        self._clock, self._spawn, self.choice = clock, spawn, choice
        self._terms = terms
        self._bases = itertools.count(0, 2)
        self._trees: dict[Digest, Tree] = {}
        self._given_up: list[Tree] = []
        self._handing: list[asyncio.Event] = []
        self._shelf = asyncio.Lock()
        self._shared = False
        self._tell_lost: Callable[[Sequence[str]], None] = lambda _: None
        self._pair = Pair(choice.method, words, spawn, self._services, self._lost, self._filled_now)

    # -- Mounts -------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """Return the word for how: fanotify or fuse."""
        return self.choice.method

    @property
    def reason(self) -> str:
        """Return why this one was chosen."""
        return self.choice.reason

    def listen(self, lost: Callable[[Sequence[str]], None]) -> None:
        """Call `lost` with the holders of trees that are given up."""
        self._tell_lost = lost

    async def hold(self, tree: Digest, holder: str) -> HeldTree:
        """Return the tree's directory, mounted; see `Mounts`."""
        found = self._trees.setdefault(tree, Tree(tree, next(self._bases)))
        new = holder not in found.holders
        found.holders.add(holder)
        try:
            async with found.lock:
                if not found.mounted:
                    await self._bring(found)
        except BaseException:
            if new:
                self._let_go(found, holder)
            raise
        assert found.home is not None  # noqa: S101 - it is mounted
        return HeldTree(root=found.home.root, method=self.method, reason=self.reason)

    async def release(self, tree: Digest, holder: str) -> None:
        """The holder has ended; see `Mounts`."""
        for each in (*self._trees.values(), *self._given_up):
            if each.digest == tree:
                self._let_go(each, holder)

    def _let_go(self, tree: Tree, holder: str) -> None:
        tree.holders.discard(holder)
        if not tree.holders:
            tree.unheld_since, tree.unheld_unix = self._clock.now(), self._clock.unix()

    async def started(self, tree: Digest, holder: str) -> None:
        """Note what was read until now for later starts; see `Mounts`."""
        found = self._trees.get(tree)
        if found is None or holder not in found.holders:
            return
        wanted = hot.merge(found.hot, await self.recorded(tree))
        if wanted is not None:
            await self._terms.hot_lists.put(tree, wanted)
            log.info("mounts.hot", tree=tree, known=len(found.hot), objects=len(wanted))
            found.hot = wanted

    async def tend(self) -> None:
        """Unmount what nobody has held for a while, and keep to the bound; called every few seconds."""
        await self._pair.tend()
        now = self._clock.now()
        for tree in list(self._trees.values()):
            if not tree.holders and now >= tree.unheld_since + self._terms.keep_s:
                await self._unmount(tree)
        for tree in [tree for tree in self._given_up if not tree.holders]:
            self._given_up.remove(tree)
            async with self._shelf:
                await asyncio.to_thread(self._put_by, tree)
        await self._make_room()

    async def _unmount(self, tree: Tree) -> bool:
        async with tree.lock:
            return not tree.holders and await self._take_away(tree)

    async def _make_room(self) -> None:
        stays, bytes_max = await asyncio.to_thread(self._measure)
        for name in leaving(stays, bytes_max):
            tree = self._trees.get(Digest(name))
            if tree is not None and not await self._unmount(tree):
                continue
            async with self._shelf:
                await asyncio.to_thread(self._kept.drop, Digest(name))
            log.info("mounts.left", tree=name)

    def _measure(self) -> tuple[list[Stay], int]:
        stays = [
            Stay(name=digest, size=size, used_at=used_at, held=False)
            for digest, size, used_at in self._kept.entries()
        ]
        for tree in list(self._trees.values()):
            size = bytes_of(tree.home) if tree.home is not None else 0
            held = bool(tree.holders)
            stays.append(Stay(name=tree.digest, size=size, used_at=tree.unheld_unix, held=held))
        disk = shutil.disk_usage(self._directory)
        taken = sum(each.size for each in stays)
        return stays, bound_of(self._terms.bytes_max, taken, disk.free, disk.total)

    async def recorded(self, tree: Digest) -> list[Digest]:
        """Return the objects that were read of a held tree so far, in the order in which each was first read."""
        found = self._trees[tree]
        return found.read if found.read is not None else await self._recorded(found)

    async def _recorded(self, tree: Tree) -> list[Digest]:
        assert tree.home is not None  # noqa: S101 - it is held
        path = tree.home.path / "recorded"
        daemon = await self._pair.daemon()
        await must(daemon, "recorded", {"base": tree.base, "path": str(path)})
        return decode(await asyncio.to_thread(path.read_bytes), list[Digest], "msgpack")

    def processes(self) -> dict[str, int]:
        """Return the pids of the holder and the daemon, as far as they run."""
        found = {"holder": self._pair.holder_now, "daemon": self._pair.daemon_now}
        return {name: each.process.pid for name, each in found.items() if each is not None}

    def filled(self, tree: Digest) -> bool:
        """Return whether all of a held tree is here, so that reading it costs nothing any more."""
        return self._trees[tree].filled

    def from_peers(self, tree: Digest) -> int:
        """Return how many bytes of a held tree's objects other workers gave until it was filled."""
        return self._trees[tree].from_peers

    def whole(self) -> dict[Digest, Whole]:
        """Return the trees that are all here, with their manifests and open devices: the latest used last.

        The devices may be closed as soon as something is awaited.
        """
        trees = sorted(
            self._trees.values(), key=lambda each: (bool(each.holders), each.unheld_since)
        )
        return {
            each.digest: Whole(each.home.tree, each.files)
            for each in trees
            if each.filled and each.ready and each.home is not None and each.files is not None
        }

    async def prefetch(self, tree: Digest, objects: Sequence[Digest]) -> None:
        """Have these objects of a held tree here, in this order, before it returns: what its start is known to read.

        What can't be had in PREFETCH_S comes when it is read.
        """
        await self._prefetch(self._trees[tree], objects)

    async def _prefetch(self, tree: Tree, objects: Sequence[Digest]) -> None:
        assert tree.home is not None  # noqa: S101 - it is held
        path = tree.home.path / "hot"
        await asyncio.to_thread(path.write_bytes, encode(list(objects), "msgpack"))
        words = {"base": tree.base, "path": str(path)}
        try:
            daemon = await self._pair.daemon()
            await daemon.order("prefetch", words, within_s=PREFETCH_S)
        except UnavailableError as error:
            log.warning("mounts.prefetch_missed", tree=tree.digest, error=str(error))

    # -- mounting -----------------------------------------------------------------------------------

    async def _bring(self, tree: Tree) -> None:
        if tree.home is not None and tree.ready:
            # Somebody reads what was unmounted: all is still there.
            await self._mount(tree, tree.home)
            return
        # What a bringing that was given up has left.
        if tree.home is not None and not await self._take_away(tree):
            raise UnavailableError(
                "platform.unavailable", "the image is being unmounted; try again"
            )
        flat = await self._make(tree)
        # Its metadata takes longest: what its start is known to read is fetched meanwhile.
        watched = asyncio.Event()
        await both(self._warm(tree, watched), self._show_all(tree, flat, watched))

    async def _show_all(self, tree: Tree, flat: FlatTree, watched: asyncio.Event) -> None:
        """Make the metadata, and mount the tree as soon as reads of it wait."""
        home = tree.home
        assert home is not None  # noqa: S101 - it has just been made
        try:
            await whole(lambda: write_metadata(home, tree.digest, flat))
        except OSError as error:
            raise _unwritable(error) from error
        await watched.wait()
        if (
            not tree.known
        ):  # its holder has ended meanwhile: reads would get zeros, or errors for ever
            raise UnavailableError("platform.unavailable", "the image is given up; try again")
        tree.ready = True
        await self._mount(tree, home)

    async def _warm(self, tree: Tree, watched: asyncio.Event) -> None:
        """Have reads of a tree wait, and what its start is known to read be here."""
        await self._watch(tree)
        watched.set()
        tree.hot = await self._ask_hot(tree.digest)
        if tree.hot:
            await self._prefetch(tree, tree.hot)

    async def _ask_hot(self, tree: Digest) -> list[Digest]:
        try:
            async with asyncio.timeout(HOT_S):
                return await self._terms.hot_lists.get(tree)
        except (PlatformError, TimeoutError) as error:
            log.warning("mounts.hot_missed", tree=tree, error=str(error))
            return []

    async def _make(self, tree: Tree) -> FlatTree:
        """Make a tree's files, all but its metadata; return what is in it."""
        data = await asyncio.to_thread(self._kept.manifest, tree.digest)
        data = data or await self._source.manifest(tree.digest)
        path = self._directory / f"{tree.base}-{tree.digest[:16]}"

        made: list[FlatTree] = []

        def make() -> None:
            left = self._kept.take(tree.digest)
            tree.home, tree.files, flat = make_devices(path, tree.digest, data, left)
            made.append(flat)
            self._kept.drop(tree.digest)

        try:
            async with self._shelf:
                await whole(make)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise _unwritable(error) from error
        return made[0]

    async def _watch(self, tree: Tree) -> None:
        """Have reads of a new tree wait until their content is here."""
        holder = await self._pair.holder()
        if not self._shared:
            await mounting(lambda: kernel.share(str(self._directory.parent)))
            self._shared = True
        await must(holder, "room", {"path": str(self._directory.parent)})
        await self._pair.serve(self._service(tree))
        tree.watched = tree.known = True
        assert tree.home is not None  # noqa: S101 - the caller has just made it
        assert tree.files is not None  # noqa: S101 - likewise
        await must(holder, "target", {"path": str(tree.home.root)})
        for device, file in enumerate(tree.files):
            if self.choice.method == "fuse":
                await self._show(tree, holder, tree.home.shown[device], tree.base + device, file)
            else:
                await must(holder, "watch", {"device": tree.base + device}, (file,))

    async def _show(self, tree: Tree, holder: Channel, path: Path, device: int, file: int) -> None:
        """Mount a device as FUSE's one file, served by the holder alone: without it, readers get errors."""
        door = os.open(_FUSE, os.O_RDWR | os.O_CLOEXEC)
        tree.doors.append(door)
        await mounting(lambda: kernel.mount("glowplug", str(path), "fuse", mount_options(door)))
        await must(holder, "show", {"device": device}, (file, door))

    async def _mount(self, tree: Tree, home: Home) -> None:
        packs, pieces = home.shown if self.choice.method == "fuse" else home.devices

        def mount() -> None:
            devices = f"device={packs},device={pieces}"
            kernel.mount(str(home.metadata), str(home.root), "erofs", devices)
            tree.mounted = True

        await mounting(mount)
        log.info("mounts.mounted", tree=tree.digest, method=self.choice.method)

    async def _take_away(self, tree: Tree) -> bool:
        """Unmount a tree and put its files by; False, and later, if somebody reads it still."""
        if tree.holders and tree.mounted:
            return False
        if tree.home is not None and not await asyncio.to_thread(
            kernel.unmount, str(tree.home.root)
        ):
            return False
        tree.mounted = False
        if tree.home is not None and self.choice.method == "fuse":
            shown = [str(path) for path in tree.home.shown]
            if not all([await asyncio.to_thread(kernel.unmount, path) for path in shown]):
                return False
        tree.ready = False
        holder, daemon = self._pair.holder_now, self._pair.daemon_now
        if tree.known and holder is not None and tree.files is not None:
            for device in range(len(tree.files)):
                words = {"device": tree.base + device, "filled": False}
                answer = await holder.order("unwatch", words)
                if answer.get("error") == _IN_USE:
                    return False
        tree.watched = tree.known = False
        with contextlib.suppress(PlatformError):
            if daemon is not None:
                await daemon.order("forget", {"base": tree.base})
        async with self._shelf:
            await asyncio.to_thread(self._put_by, tree)
        if not tree.holders and self._trees.get(tree.digest) is tree:
            del self._trees[tree.digest]
        tree.base = next(self._bases)
        return True

    def _put_by(self, tree: Tree) -> None:
        """Close a tree's files, and keep what was fetched."""
        for file in (*(tree.files or ()), *tree.doors):
            os.close(file)
        tree.files, tree.doors = None, []
        if tree.home is not None and unmount_below(tree.home.path):
            give_up_at = time.monotonic() + kept.LEFT_S
            self._kept.put(tree.home, tree.digest, give_up_at, tree.unheld_unix or None)
        tree.home, tree.ready, tree.filled, tree.read = None, False, False, None

    # -- what the two processes say -----------------------------------------------------------------

    def _services(self) -> Iterator[Service]:
        for tree in list(self._trees.values()):
            if tree.watched:
                yield self._service(tree)

    def _service(self, tree: Tree) -> Service:
        assert tree.home is not None  # noqa: S101 - it has files to be served
        assert tree.files is not None  # noqa: S101 - likewise
        return Service(tree.base, tree.digest, tree.home.tree, tree.files)

    def _filled_now(self, base: int, from_peers: int) -> None:
        for tree in self._trees.values():
            if tree.base == base:
                tree.from_peers = from_peers
                self._spawn(self._end_watch(tree), "mounts.filled")

    async def _end_watch(self, tree: Tree) -> None:
        async with tree.lock:
            holder = self._pair.holder_now
            if not tree.watched or holder is None or tree.files is None:
                return
            try:
                tree.read = await self._recorded(tree)
                for device in range(len(tree.files)):
                    words = {"device": tree.base + device, "filled": True}
                    await must(holder, "unwatch", words)
            except UnavailableError as error:
                # One of the two has ended, or all is being closed: it stays watched, or is given up.
                log.info("mounts.watched_still", tree=tree.digest, error=str(error))
                return
            tree.filled = True
            tree.watched = self.choice.method == "fuse"
            log.info("mounts.filled", tree=tree.digest, from_peers=tree.from_peers)

    def _lost(self, group: int) -> None:
        """Give up the holder's mounts: a successor fails whoever waits, and ends when nobody reads them any more."""
        log.error("mounts.holder_gone", trees=len(self._trees))
        for tree in self._trees.values():
            tree.known = False
        trees = [tree for tree in self._trees.values() if tree.watched]
        holders = sorted({holder for tree in trees for holder in tree.holders})
        self._tell_lost(holders)
        for tree in trees:
            del self._trees[tree.digest]
            for door in tree.doors:  # now its readers get errors
                os.close(door)
            tree.doors = []
        if group < 0 or not trees:
            self._given_up += trees
            if group >= 0:
                os.close(group)
            return
        successor = self._pair.start_holder(group, "--closing", gone=lambda: None)
        handed = asyncio.Event()
        self._handing.append(handed)
        self._spawn(self._hand_over(successor, group, trees, handed), "mounts.hand_over")

    async def _hand_over(
        self, successor: Channel, group: int, trees: list[Tree], handed: asyncio.Event
    ) -> None:
        try:
            for tree in trees:
                if tree.home is not None and tree.files is not None:
                    await must(successor, "target", {"path": str(tree.home.root)})
                    for device, file in enumerate(tree.files):
                        words = {"device": tree.base + device}
                        await must(successor, "watch", words, (file,))
        finally:
            os.close(group)
            self._given_up += trees
            self._pair.leave(successor)
            handed.set()

    async def close(self) -> None:
        """Unmount everything; what somebody reads still is the holder's, which outlives this."""
        self._pair.closing = True
        for handed in self._handing:
            await handed.wait()
        trees = [*self._trees.values(), *self._given_up]
        for tree in trees:
            if tree.home is not None:
                await asyncio.to_thread(kernel.unmount, str(tree.home.root), detach=True)
            for file in (*(tree.files or ()), *tree.doors):
                os.close(file)
            tree.files, tree.doors = None, []
        if await self._pair.close():
            for tree in trees:
                await asyncio.to_thread(self._put_by, tree)


@contextlib.asynccontextmanager
async def open_lazy_mounts(
    directory: Path,
    source: TreeSource,
    words: Callable[[], Mapping[str, object]],
    clock: Clock,
    spawn: Spawn,
    choice: Choice,
    terms: Terms = _USUAL,
) -> AsyncIterator[LazyMounts]:
    """Open lazy mounts below a directory, which is theirs alone; what an earlier worker has fetched is taken over.

    Args:
        source, words: where manifests and objects come from: for this process, and in words for the daemon, asked
            for again every few seconds.
        choice: how they are mounted: fanotify or fuse, and why so.
    """
    keeps = await asyncio.to_thread(Kept, directory)
    await asyncio.to_thread(salvage, directory, keeps)
    with _own_directory(directory) as own:
        mounts = LazyMounts(own, keeps, source, words, clock, spawn, choice, terms)
        try:
            yield mounts
        finally:
            await mounts.close()


@contextlib.contextmanager
def _own_directory(directory: Path) -> Iterator[Path]:
    """Yield a new directory. Old ones may still be read, by those who do not know yet that their worker is gone."""
    own = Path(tempfile.mkdtemp(prefix=kept.RUN, dir=directory))
    try:
        yield own
    finally:
        if unmount_below(directory):
            shutil.rmtree(own, ignore_errors=True)


def _unwritable(error: OSError) -> UnavailableError:
    return UnavailableError("platform.unavailable", f"the image's files can't be made: {error}")
