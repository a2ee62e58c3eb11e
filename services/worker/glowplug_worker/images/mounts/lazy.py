"""Trees as lazy mounts: `Mounts` of ports.py on EROFS, the holder and the daemon.

One holder and one daemon serve all trees of a worker. The daemon may end at any time: another one is started, and
readers wait for it. Were the holder to end, this process still owns the group, so readers wait; its mounts are
given up then: a successor refuses what would have to be fetched and unmounts, and later holds mount afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import (
    ContractError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.ids import Digest
from glowplug_runtime.clock import Clock

from glowplug_worker.images.mounts import kernel
from glowplug_worker.images.mounts.channel import Channel
from glowplug_worker.images.mounts.files import Home, make_home
from glowplug_worker.images.mounts.fuse import mount_options
from glowplug_worker.images.mounts.probe import Choice
from glowplug_worker.images.mounts.sources import TreeSource
from glowplug_worker.ports import HeldTree
from glowplug_worker.runtime.leftovers import unmount_below
from glowplug_worker.runtime.settle import settle

log = structlog.get_logger()

# Nobody has held a tree for so long: it is unmounted, and what was fetched of it goes.
KEEP_S: Final = 900.0
# What a start is known to read is fetched first, but a start does not wait longer for it.
PREFETCH_S: Final = 30.0
# Between tries to start a daemon that ends at once.
RESTART_S_MIN: Final = 0.05
RESTART_S_MAX: Final = 5.0
SERVE_TRIES: Final = 3
CLOSE_S: Final = 5.0
_HOLDER: Final = Path(__file__).with_name("holder")
_DAEMON: Final = "glowplug_worker.images.mounts.daemon"
_FUSE: Final = "/dev/fuse"
_IN_USE: Final = "in use"


class _Tree:
    """A tree that is, or is about to be, mounted."""

    def __init__(self, digest: Digest, base: int) -> None:
        self.digest, self.base = digest, base
        self.lock = asyncio.Lock()
        self.holders: set[str] = set()
        self.home: Home | None = None
        self.files: tuple[int, int] | None = None
        self.watched = False
        self.ready = False
        self.mounted = False
        self.filled = False
        self.unheld_since = 0.0


class LazyMounts:
    """See the module. Opened by `open_lazy_mounts`."""

    def __init__(
        self,
        directory: Path,
        source: TreeSource,
        words: dict[str, str],
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        choice: Choice,
    ) -> None:
        self._directory, self._source, self._words = directory, source, words
        self._clock, self._spawn, self.choice = clock, spawn, choice
        self._bases = itertools.count(0, 2)
        self._trees: dict[Digest, _Tree] = {}
        self._given_up: list[_Tree] = []
        self._leaving: list[Channel] = []
        self._handing: list[asyncio.Event] = []
        self._group = -1
        self._holder: Channel | None = None
        self._daemon: Channel | None = None
        self._starting = asyncio.Lock()
        self._restarts = 0
        self._closing = False

    # -- Mounts -------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """Return the word for how: fanotify or fuse."""
        return self.choice.method

    @property
    def reason(self) -> str:
        """Return why this one was chosen."""
        return self.choice.reason

    async def hold(self, tree: Digest, holder: str) -> HeldTree:
        """Return the tree's directory, mounted; see `Mounts`."""
        found = self._trees.setdefault(tree, _Tree(tree, next(self._bases)))
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

    def _let_go(self, tree: _Tree, holder: str) -> None:
        tree.holders.discard(holder)
        if not tree.holders:
            tree.unheld_since = self._clock.now()

    async def tend(self) -> None:
        """Unmount what nobody has held for a while; called every few seconds."""
        now = self._clock.now()
        for tree in list(self._trees.values()):
            if not tree.holders and not tree.lock.locked() and now >= tree.unheld_since + KEEP_S:
                async with tree.lock:
                    await self._take_away(tree)
        for tree in [tree for tree in self._given_up if not tree.holders]:
            self._given_up.remove(tree)
            await asyncio.to_thread(self._remove, tree)
        self._leaving = [each for each in self._leaving if not each.reap(0)]

    async def recorded(self, tree: Digest) -> list[Digest]:
        """Return the objects that were read of a held tree so far, in the order in which each was first read."""
        found, daemon = self._trees[tree], await self._daemon_now()
        assert found.home is not None  # noqa: S101 - it is held
        path = found.home.path / "recorded"
        await self._must(daemon, "recorded", {"base": found.base, "path": str(path)})
        return decode(await asyncio.to_thread(path.read_bytes), list[Digest], "msgpack")

    def processes(self) -> dict[str, int]:
        """Return the pids of the holder and the daemon, as far as they run."""
        found = {"holder": self._holder, "daemon": self._daemon}
        return {name: each.process.pid for name, each in found.items() if each is not None}

    def filled(self, tree: Digest) -> bool:
        """Return whether all of a held tree is here, so that reading it costs nothing any more."""
        return self._trees[tree].filled

    async def prefetch(self, tree: Digest, objects: list[Digest]) -> None:
        """Have these objects of a held tree here, in this order, before it returns: what its start is known to read.

        What can't be had in PREFETCH_S comes when it is read.
        """
        found = self._trees[tree]
        assert found.home is not None  # noqa: S101 - it is held
        path = found.home.path / "hot"
        await asyncio.to_thread(path.write_bytes, encode(objects, "msgpack"))
        words = {"base": found.base, "path": str(path)}
        try:
            daemon = await self._daemon_now()
            await daemon.order("prefetch", words, within_s=PREFETCH_S)
        except UnavailableError as error:
            log.warning("mounts.prefetch_missed", tree=tree, error=str(error))

    # -- mounting -----------------------------------------------------------------------------------

    async def _bring(self, tree: _Tree) -> None:
        if tree.home is not None and tree.ready:
            await self._mount(
                tree, tree.home
            )  # somebody reads what was unmounted: all is still there
            return
        # What a bringing that was given up has left.
        if tree.home is not None and not await self._take_away(tree):
            raise UnavailableError(
                "platform.unavailable", "the image is being unmounted; try again"
            )
        data = await self._source.manifest(tree.digest)
        path = self._directory / f"{tree.base}-{tree.digest[:16]}"

        def make() -> None:
            tree.home, tree.files = make_home(path, tree.digest, data)

        try:
            await _whole(make)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            why = f"the image's files can't be made: {error}"
            raise UnavailableError("platform.unavailable", why) from error
        assert tree.home is not None  # noqa: S101 - it has just been made
        assert tree.files is not None  # noqa: S101 - likewise
        holder = await self._processes()
        await self._served(tree)
        tree.watched = True
        await self._must(holder, "target", {"path": str(tree.home.root)})
        for device, file in enumerate(tree.files):
            if self.choice.method == "fuse":
                await self._show(holder, tree.home.shown[device], tree.base + device, file)
            else:
                await self._must(holder, "watch", {"device": tree.base + device}, (file,))
        tree.ready = True
        await self._mount(tree, tree.home)

    async def _show(self, holder: Channel, path: Path, device: int, file: int) -> None:
        """Mount a device as FUSE's one file, served by the holder alone: without it, readers get errors."""
        door = os.open(_FUSE, os.O_RDWR | os.O_CLOEXEC)
        try:
            await _mounted(lambda: kernel.mount("glowplug", str(path), "fuse", mount_options(door)))
            await self._must(holder, "show", {"device": device}, (file, door))
        finally:
            os.close(door)

    async def _mount(self, tree: _Tree, home: Home) -> None:
        packs, pieces = home.shown if self.choice.method == "fuse" else home.devices

        def mount() -> None:
            devices = f"device={packs},device={pieces}"
            kernel.mount(str(home.metadata), str(home.root), "erofs", devices)
            tree.mounted = True

        await _mounted(mount)
        log.info("mounts.mounted", tree=tree.digest, method=self.choice.method)

    async def _take_away(self, tree: _Tree) -> bool:
        """Unmount a tree and remove its files; False, and later, if somebody reads it still."""
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
        if tree.watched and self._holder is not None and tree.files is not None:
            for device in range(len(tree.files)):
                words = {"device": tree.base + device, "filled": False}
                answer = await self._holder.order("unwatch", words)
                if answer.get("error") == _IN_USE:
                    return False
            tree.watched = False
        with contextlib.suppress(PlatformError):
            if self._daemon is not None:
                await self._daemon.order("forget", {"base": tree.base})
        await asyncio.to_thread(self._remove, tree)
        if not tree.holders and self._trees.get(tree.digest) is tree:
            del self._trees[tree.digest]
        tree.base = next(self._bases)
        return True

    def _remove(self, tree: _Tree) -> None:
        """Close and delete a tree's files."""
        for file in tree.files or ():
            os.close(file)
        tree.files = None
        if tree.home is not None and unmount_below(tree.home.path):
            shutil.rmtree(tree.home.path, ignore_errors=True)
        tree.home, tree.ready, tree.filled = None, False, False

    # -- the two processes --------------------------------------------------------------------------

    async def _processes(self) -> Channel:
        """Return the holder, started if there is none."""
        async with self._starting:
            self._still_open()
            if self._holder is None:
                self._group = kernel.open_group() if self.choice.method == "fanotify" else -1
                self._holder = self._start_holder(gone=self._holder_gone)
            return self._holder

    def _still_open(self) -> None:
        if self._closing:
            raise UnavailableError("platform.unavailable", "image mounts are being closed")

    def _start_holder(self, *more: str, gone: Callable[[], None]) -> Channel:
        executable = getattr(sys, "_base_executable", sys.executable)
        argv = [executable, "-I", "-S", str(_HOLDER), "--group", str(self._group), *more]
        return Channel(
            "holder", argv, keeps=(self._group,) if self._group >= 0 else (), silent=True, gone=gone
        )

    async def _daemon_now(self) -> Channel:
        """Return the daemon, started if there is none, with all that it serves."""
        holder = await self._processes()
        async with self._starting:
            self._still_open()
            if self._daemon is None:
                argv = [sys.executable, "-m", _DAEMON]
                daemon = Channel("daemon", argv, gone=self._daemon_gone, news=self._heard)
                try:
                    await self._introduce(daemon, holder)
                except BaseException:
                    daemon.hang_up()
                    self._leaving.append(daemon)
                    raise
                self._daemon = daemon
            return self._daemon

    async def _introduce(self, daemon: Channel, holder: Channel) -> None:
        """Tell a new daemon what it serves, and then the holder of it: its needs come at once."""
        await self._must(daemon, "source", self._words)
        for tree in list(self._trees.values()):
            if tree.watched:
                await self._serve(daemon, tree)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            await self._must(daemon, "needs", {}, (ours.fileno(),))
            await self._must(holder, "daemon", {}, (theirs.fileno(),))

    async def _serve(self, daemon: Channel, tree: _Tree) -> None:
        assert tree.home is not None  # noqa: S101 - the caller made it
        assert tree.files is not None  # noqa: S101 - likewise
        words = {"base": tree.base, "digest": tree.digest, "path": str(tree.home.tree)}
        await self._must(daemon, "serve", words, tree.files)

    async def _served(self, tree: _Tree) -> None:
        """Have a new tree served, by another daemon if one ends in the middle."""
        for left in reversed(range(SERVE_TRIES)):
            daemon = await self._daemon_now()
            try:
                await self._serve(daemon, tree)
            except UnavailableError:
                if not daemon.over or not left:
                    raise
            else:
                return

    async def _must(
        self, to: Channel, kind: str, words: Mapping[str, object], fds: tuple[int, ...] = ()
    ) -> None:
        answer = await to.order(kind, words, fds)
        if "error" in answer:
            why = f"image mounts: {kind}: {answer['error']}"
            if answer.get("code", "").startswith("image."):
                raise ContractError(answer["code"], why)
            raise UnavailableError("platform.unavailable", why)

    def _heard(self, said: dict[str, Any]) -> None:
        for tree in self._trees.values():
            if tree.base == said["filled"]:
                self._spawn(self._end_watch(tree), "mounts.filled")

    async def _end_watch(self, tree: _Tree) -> None:
        async with tree.lock:
            if tree.watched and self._holder is not None and tree.files is not None:
                for device in range(len(tree.files)):
                    words = {"device": tree.base + device, "filled": True}
                    await self._must(self._holder, "unwatch", words)
                tree.filled = True
                log.info("mounts.filled", tree=tree.digest)

    def _daemon_gone(self) -> None:
        gone, self._daemon = self._daemon, None
        if gone is not None:
            gone.reap()
        if not self._closing:
            log.warning("mounts.daemon_gone")
            self._spawn(self._start_again(), "mounts.daemon")

    async def _start_again(self) -> None:
        while not self._closing and self._daemon is None:
            self._restarts += 1
            await asyncio.sleep(min(RESTART_S_MAX, RESTART_S_MIN * 2 ** min(self._restarts, 10)))
            try:
                await self._daemon_now()
            except UnavailableError as error:
                log.warning("mounts.daemon_failed", error=str(error))
            else:
                self._restarts = 0

    def _holder_gone(self) -> None:
        """Give up its mounts: a successor fails whoever waits, and ends when nobody reads them any more."""
        gone, self._holder = self._holder, None
        if gone is not None:
            gone.reap()
        if self._closing:
            return
        log.error("mounts.holder_gone", trees=len(self._trees))
        daemon, self._daemon = self._daemon, None
        if daemon is not None:  # it served what is given up
            daemon.hang_up()
            self._leaving.append(daemon)
        trees = [tree for tree in self._trees.values() if tree.watched]
        for tree in trees:
            del self._trees[tree.digest]
        if self._group < 0:  # FUSE's readers get errors by themselves
            self._given_up += trees
            return
        successor = self._start_holder("--closing", gone=lambda: None)
        group, self._group = self._group, -1
        handed = asyncio.Event()
        self._handing.append(handed)
        self._spawn(self._hand_over(successor, group, trees, handed), "mounts.hand_over")

    async def _hand_over(
        self, successor: Channel, group: int, trees: list[_Tree], handed: asyncio.Event
    ) -> None:
        try:
            for tree in trees:
                if tree.home is not None and tree.files is not None:
                    await self._must(successor, "target", {"path": str(tree.home.root)})
                    for device, file in enumerate(tree.files):
                        words = {"device": tree.base + device}
                        await self._must(successor, "watch", words, (file,))
        finally:
            os.close(group)
            successor.hang_up()
            self._given_up += trees
            self._leaving.append(successor)
            handed.set()

    async def close(self) -> None:
        """Unmount everything; what somebody reads still is the holder's, which outlives this."""
        self._closing = True
        async with self._starting:
            pass  # what is being started is known then
        for handed in self._handing:
            await handed.wait()
        for tree in [*self._trees.values(), *self._given_up]:
            if tree.home is not None:
                await asyncio.to_thread(kernel.unmount, str(tree.home.root), detach=True)
            for file in tree.files or ():
                os.close(file)
        for channel in (self._daemon, self._holder, *self._leaving):
            if channel is not None:
                channel.hang_up()
                if not await asyncio.to_thread(channel.reap, CLOSE_S):
                    log.warning("mounts.still_read")
                    channel.disown()
        if self._group >= 0:
            os.close(self._group)


@contextlib.asynccontextmanager
async def open_lazy_mounts(
    directory: Path,
    source: TreeSource,
    words: dict[str, str],
    clock: Clock,
    spawn: Callable[[Coroutine[Any, Any, None], str], object],
    choice: Choice,
) -> AsyncIterator[LazyMounts]:
    """Open lazy mounts below a directory, which is theirs alone; what an earlier worker has left there goes.

    Args:
        source, words: where manifests and objects come from: for this process, and in words for the daemon.
        choice: how they are mounted: fanotify or fuse, and why so.
    """
    with _own_directory(directory) as own:
        mounts = LazyMounts(own, source, words, clock, spawn, choice)
        try:
            yield mounts
        finally:
            await mounts.close()


@contextlib.contextmanager
def _own_directory(directory: Path) -> Iterator[Path]:
    """Yield a new directory. Old ones may still be read, by those who do not know yet that their worker is gone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if unmount_below(directory):
        for old in directory.iterdir():
            shutil.rmtree(old, ignore_errors=True)
    own = Path(tempfile.mkdtemp(dir=directory))
    try:
        yield own
    finally:
        if unmount_below(own):
            shutil.rmtree(own, ignore_errors=True)


async def _mounted(mount: Callable[[], None]) -> None:
    try:
        await _whole(mount)
    except OSError as error:
        why = f"the image can't be mounted: {error}"
        raise UnavailableError("platform.unavailable", why) from error


async def _whole(work: Callable[[], None]) -> None:
    """Do it in a thread, to its end, also when the caller is cancelled: what it makes is noted by itself."""
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await settle(done)
        raise
