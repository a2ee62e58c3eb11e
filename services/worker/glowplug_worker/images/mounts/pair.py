"""Holder and daemon of a worker's lazy mounts: started, introduced to each other, started again.

The daemon may end at any time: another one is started and told what it serves. When the holder ends, `lost` is
called, with nobody served any more; the next order starts another one, with a new group.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from glowplug_contracts.errors import ContractError, UnavailableError
from glowplug_contracts.ids import Digest

from glowplug_worker.images.mounts import kernel
from glowplug_worker.images.mounts.channel import Channel
from glowplug_worker.images.mounts.probe import MountMethod

log = structlog.get_logger()

# Between tries to start a daemon that ends at once.
RESTART_S_MIN: Final = 0.05
RESTART_S_MAX: Final = 5.0
SERVE_TRIES: Final = 3
CLOSE_S: Final = 5.0
_HOLDER: Final = Path(__file__).with_name("holder")
_DAEMON: Final = "glowplug_worker.images.mounts.daemon"

Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class Service(NamedTuple):
    """A tree as the daemon knows it: numbers of its devices, manifest, devices."""

    base: int
    digest: Digest
    manifest: Path
    files: tuple[int, int]


class Pair:
    """See the module.

    Args:
        words: where objects come from, in words for the daemon; told again when they change.
        services: what a new daemon serves.
        lost: is called when the holder ended by itself, with the group that it had (-1 = none).
        filled: takes the base of a tree that is all here, and how many bytes of it other workers gave.
    """

    def __init__(
        self,
        method: MountMethod,
        words: Callable[[], Mapping[str, object]],
        spawn: Spawn,
        services: Callable[[], Iterable[Service]],
        lost: Callable[[int], None],
        filled: Callable[[int, int], None],
    ) -> None:
        self._method, self._words, self._spawn = method, words, spawn
        self._services, self._lost, self._filled = services, lost, filled
        self._said: Mapping[str, object] = {}
        self._group = -1
        self._holder: Channel | None = None
        self._daemon: Channel | None = None
        self._leaving: list[Channel] = []
        self._starting = asyncio.Lock()
        self._restarts = 0
        self.closing = False

    @property
    def holder_now(self) -> Channel | None:
        """Return the holder, if there is one."""
        return self._holder

    @property
    def daemon_now(self) -> Channel | None:
        """Return the daemon, if there is one."""
        return self._daemon

    async def holder(self) -> Channel:
        """Return the holder, started if there is none."""
        async with self._starting:
            self._still_open()
            if self._holder is None:
                self._group = kernel.open_group() if self._method == "fanotify" else -1
                self._holder = self.start_holder(self._group, gone=self._holder_gone)
            return self._holder

    def start_holder(self, group: int, *more: str, gone: Callable[[], None]) -> Channel:
        """Start a holder of a group."""
        executable = getattr(sys, "_base_executable", sys.executable)
        argv = [executable, "-I", "-S", str(_HOLDER), "--group", str(group), *more]
        return Channel("holder", argv, keeps=(group,) if group >= 0 else (), silent=True, gone=gone)

    async def daemon(self) -> Channel:
        """Return the daemon, started if there is none, with all that it serves."""
        holder = await self.holder()
        async with self._starting:
            self._still_open()
            if self._daemon is None:
                argv = [sys.executable, "-m", _DAEMON]
                daemon = Channel("daemon", argv, gone=self._daemon_gone, news=self._heard)
                try:
                    await self._introduce(daemon, holder)
                except BaseException:
                    self.leave(daemon)
                    raise
                self._daemon = daemon
            return self._daemon

    async def serve(self, service: Service) -> None:
        """Have a new tree served, by another daemon if one ends in the middle."""
        for left in reversed(range(SERVE_TRIES)):
            daemon = await self.daemon()
            try:
                await _serve(daemon, service)
            except UnavailableError:
                if not daemon.over or not left:
                    raise
            else:
                return

    async def tend(self) -> None:
        """Tell the daemon if objects come from elsewhere now; forget those that have ended."""
        self._leaving = [each for each in self._leaving if not each.reap(0)]
        if self._daemon is not None and self._words() != self._said:
            await self._tell_source(self._daemon)

    def leave(self, channel: Channel) -> None:
        """Let a process end in its own time."""
        channel.hang_up()
        self._leaving.append(channel)

    async def close(self) -> bool:
        """End both; return whether they have ended: while somebody reads still, the holder outlives this."""
        self.closing = True
        async with self._starting:
            pass  # what is being started is known then
        over = True
        for channel in (self._daemon, self._holder, *self._leaving):
            if channel is not None:
                channel.hang_up()
                if not await asyncio.to_thread(channel.reap, CLOSE_S):
                    log.warning("mounts.still_there", process=channel.what)
                    channel.disown()
                    over = False
        if self._group >= 0:
            os.close(self._group)
        return over

    def _still_open(self) -> None:
        if self.closing:
            raise UnavailableError("platform.unavailable", "image mounts are being closed")

    async def _introduce(self, daemon: Channel, holder: Channel) -> None:
        """Tell a new daemon what it serves, and then the holder of it: its needs come at once."""
        await self._tell_source(daemon)
        for service in list(self._services()):
            await _serve(daemon, service)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            await must(daemon, "needs", {}, (ours.fileno(),))
            await must(holder, "daemon", {}, (theirs.fileno(),))

    async def _tell_source(self, daemon: Channel) -> None:
        words = self._words()
        await must(daemon, "source", words)
        self._said = words

    def _heard(self, said: dict[str, Any]) -> None:
        self._filled(said["filled"], said["from_peers"])

    def _daemon_gone(self) -> None:
        gone, self._daemon = self._daemon, None
        if gone is not None:
            gone.reap()
        if not self.closing:
            log.warning("mounts.daemon_gone")
            self._spawn(self._start_again(), "mounts.daemon")

    async def _start_again(self) -> None:
        while not self.closing and self._daemon is None:
            self._restarts += 1
            await asyncio.sleep(min(RESTART_S_MAX, RESTART_S_MIN * 2 ** min(self._restarts, 10)))
            try:
                await self.daemon()
            except UnavailableError as error:
                log.warning("mounts.daemon_failed", error=str(error))
            else:
                self._restarts = 0

    def _holder_gone(self) -> None:
        gone, self._holder = self._holder, None
        if gone is not None:
            gone.reap()
        if self.closing:
            return
        daemon, self._daemon = self._daemon, None
        if daemon is not None:  # it served what is given up
            self.leave(daemon)
        group, self._group = self._group, -1
        self._lost(group)


async def must(
    to: Channel, kind: str, words: Mapping[str, object], fds: tuple[int, ...] = ()
) -> None:
    """Give an order. Raises: UnavailableError, or ContractError, if it was not obeyed."""
    answer = await to.order(kind, words, fds)
    if "error" in answer:
        why = f"image mounts: {kind}: {answer['error']}"
        if answer.get("code", "").startswith("image."):
            raise ContractError(answer["code"], why)
        raise UnavailableError("platform.unavailable", why)


async def _serve(daemon: Channel, service: Service) -> None:
    words = {"base": service.base, "digest": service.digest, "path": str(service.manifest)}
    await must(daemon, "serve", words, service.files)
