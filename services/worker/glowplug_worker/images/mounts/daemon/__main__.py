"""The daemon's process: `python -m glowplug_worker.images.mounts.daemon --control N`. Until the worker ends.

An order is a packet of JSON with an id, and descriptors; its answer has the same id, when it is done:

    source {store, urls, token}            where objects come from: first of all; again when they come from elsewhere
    needs + a channel of the holder's      what readers wait for
    serve {base, digest, path} + 2 files   a tree: where its manifest is, and its devices
    prefetch {base, path}                  the objects of a list, by their digests; answered when they are there
    recorded {base, path}                  write the list of what was read
    forget {base}

Of a tree that is filled it says so without being asked: {"filled": base, "from_peers": bytes}.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import FlatTree

from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.mounts.daemon.beside import Beside
from glowplug_worker.images.mounts.daemon.served import Served
from glowplug_worker.images.mounts.sources import DirectorySource, ImagecacheSource, TreeSource
from glowplug_worker.images.mounts.wire import (
    PACKET_BYTES_MAX,
    Answer,
    decode_need,
    encode_answer,
)
from glowplug_worker.images.objects import check_blob
from glowplug_worker.images.peers.asking import PeersFirst
from glowplug_worker.runtime.packets import receive

log = structlog.get_logger()

ORDER_BYTES_MAX = 1 << 16
TICK_S = 0.25
# Readers wait a minute in all: a store that is silent so long is left for another one.
STALLED_S = 10.0
EIO = 5


class Daemon:
    """Takes orders and needs; trees do the rest."""

    def __init__(self, control: socket.socket, tasks: asyncio.TaskGroup) -> None:
        self._control, self._tasks = control, tasks
        self._needs: socket.socket | None = None
        self._trees: dict[int, Served] = {}
        self._prefetching: dict[int, int] = {}
        self._tickets = itertools.count(1)
        self._source: TreeSource | None = None
        self._peering: tuple[StoreClient, aiohttp.ClientSession] | None = None
        self._urls: deque[str] = deque()
        self._closing = contextlib.AsyncExitStack()
        self.over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._on_control)

    async def run(self) -> None:
        """Serve until the worker is gone."""
        async with self._closing:
            while not self.over.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self.over.wait()
                for tree in list(self._trees.values()):
                    tree.tick()

    def _on_control(self) -> None:
        try:
            data, fds = receive(self._control, ORDER_BYTES_MAX, 2)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._loop.remove_reader(self._control.fileno())
            self.over.set()
            return
        self._tasks.create_task(self._obey(json.loads(data), fds))

    async def _obey(self, order: dict[str, Any], fds: list[int]) -> None:
        try:
            done = await self._perform(order, fds)
        except (PlatformError, OSError, KeyError) as error:  # KeyError: a tree that is not served
            code = error.code if isinstance(error, PlatformError) else "platform.unavailable"
            self._tell({"id": order["id"], "error": f"{error}", "code": code})
        else:
            if done:
                self._tell({"id": order["id"]})

    async def _perform(self, order: dict[str, Any], fds: list[int]) -> bool:
        """Do it; return whether it is done, and not answered later."""
        kind = order["order"]
        if kind == "source":
            await self._take_source(order)
        elif kind == "needs":
            self._take_needs(socket.socket(fileno=fds[0]))
        elif kind == "serve":
            await self._serve(order["base"], Digest(order["digest"]), Path(order["path"]), fds)
        elif kind == "prefetch":
            data = await asyncio.to_thread(Path(order["path"]).read_bytes)
            tree = self._trees[order["base"]]
            ticket = -next(self._tickets)
            self._prefetching[ticket] = order["id"]
            tree.prefetch(ticket, tree.numbers_of(decode(data, list[Digest], "msgpack")))
            return False
        elif kind == "recorded":
            data = encode(self._trees[order["base"]].recorded(), "msgpack")
            await asyncio.to_thread(Path(order["path"]).write_bytes, data)
        elif kind == "forget" and order["base"] in self._trees:
            self._trees.pop(order["base"]).close()
        return True

    async def _take_source(self, order: dict[str, Any]) -> None:
        self._urls = deque(order.get("urls", ()))
        if self._source is not None:
            return
        if order["store"] == "directory":
            self._source = DirectorySource(Path(order["path"]))
        else:
            session = await self._closing.enter_async_context(
                open_session(order["token"], STALLED_S)
            )
            client = StoreClient(session, self._next_url)
            self._source, self._peering = ImagecacheSource(client), (client, session)

    def _next_url(self) -> str | None:
        """Return where to ask: another place each time, so that one that is away costs one try."""
        self._urls.rotate(-1)
        return self._urls[-1] if self._urls else None

    async def _serve(self, base: int, digest: Digest, path: Path, fds: list[int]) -> None:
        assert self._source is not None  # noqa: S101 - it is ordered first
        data = await asyncio.to_thread(path.read_bytes)
        # Its rules were checked by the worker, before it ordered this: the digest says that it is the same.
        tree = await asyncio.to_thread(
            lambda: decode(check_blob(digest, data), FlatTree, "msgpack")
        )
        packs, pieces = fds
        peers = self._peers_of(digest, self._source)
        self._trees[base] = Served(
            base,
            tree,
            (packs, pieces),
            Beside(peers or self._source, self._trees.values),
            self._tasks.create_task,
            self._answer,
            self._prefetched,
            lambda: self._tell({"filled": base, "from_peers": peers.brought if peers else 0}),
        )

    def _peers_of(self, digest: Digest, source: TreeSource) -> PeersFirst | None:
        """Return what asks other workers first; None where there is no imagecache to tell who they are."""
        if self._peering is None:
            return None
        client, session = self._peering
        return PeersFirst(source, lambda: client.get_peers(digest), session)

    def _take_needs(self, needs: socket.socket) -> None:
        needs.setblocking(False)  # noqa: FBT003 - positional only
        self._needs = needs
        self._loop.add_reader(needs.fileno(), self._on_needs)

    def _on_needs(self) -> None:
        assert self._needs is not None  # noqa: S101 - it is what is read
        while True:
            try:
                data = self._needs.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                # Without the holder nobody can be answered: the worker starts another of both.
                self._loop.remove_reader(self._needs.fileno())
                self.over.set()
                return
            need = decode_need(data)
            tree = self._trees.get(need.device) or self._trees.get(need.device - 1)
            if tree is None:
                self._answer(Answer(need.ticket, EIO, need.device, 0, 0))
            else:
                tree.need(need)

    def _answer(self, answer: Answer) -> None:
        """Answer the holder. It always reads, so this waits for it rather than keep a queue."""
        if self._needs is None:
            return
        self._needs.setblocking(True)  # noqa: FBT003 - positional only
        try:
            self._needs.send(encode_answer(answer))
        except OSError as error:
            log.warning("holder.gone", error=str(error))
        finally:
            self._needs.setblocking(False)  # noqa: FBT003 - positional only

    def _prefetched(self, ticket: int) -> None:
        self._tell({"id": self._prefetching.pop(ticket)})

    def _tell(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(answer).encode())


async def _serve() -> None:
    control = socket.socket(fileno=int(sys.argv[sys.argv.index("--control") + 1]))
    control.set_inheritable(False)
    control.setblocking(False)  # noqa: FBT003 - positional only
    async with asyncio.TaskGroup() as tasks:
        await Daemon(control, tasks).run()
        # What is still being fetched is nobody's any more.
        os._exit(0)


def main() -> None:
    """Serve until the worker is gone."""
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
