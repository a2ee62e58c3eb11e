"""Replicas that keep objects for each other, in one process, with real doors between them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web
from glowplug_imagecache.cluster import Cluster
from glowplug_imagecache.joining import guard
from glowplug_imagecache.object_doors import ObjectDoors
from glowplug_imagecache.raw_shelf import RawShelf
from glowplug_imagecache.shared_store import SharedStore
from glowplug_runtime.http import open_http

TOKEN = "token-of-the-cluster"
WITHIN_S = 20.0


class Replica:
    """One member: its share, its doors while it is up, and what it sees of the others."""

    def __init__(self, root: Path, name: str, loop: asyncio.AbstractEventLoop, **wanted: int):
        self.root, self.name, self.url = root, name, ""
        self.shelf = RawShelf(root)
        self.cluster = Cluster(name, self.shelf, TOKEN, scratch=root, **wanted)
        self._loop = loop
        self._stop: asyncio.Event | None = None
        self._ended: object = None

    def start(self) -> None:
        up = threading.Event()

        async def serve() -> None:
            self._stop = asyncio.Event()
            doors = ObjectDoors(self.shelf, 1 << 30)
            app = web.Application(middlewares=[guard(TOKEN)])
            app.add_routes(doors.routes())
            async with open_http(app, "127.0.0.1", 0) as port:
                self.url = f"http://127.0.0.1:{port}"
                up.set()
                await self._stop.wait()
            doors.close()

        self._ended = asyncio.run_coroutine_threadsafe(serve(), self._loop)
        assert up.wait(WITHIN_S)

    def stop(self) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._ended.result(WITHIN_S)  # type: ignore[attr-defined]
            self._stop = None

    def has(self, path: str) -> bool:
        return self.shelf.head(path) is not None

    def file(self, path: str) -> Path:
        return self.root / "objects" / path

    def store(self, **told: float) -> SharedStore:
        settings = {"fresh_s": 1800.0, "cache_bytes_max": 1 << 30, "blob_bytes_max": 1 << 30}
        return SharedStore(
            self.root / "cache", self.cluster, self.name, free_bytes_min=0, **settings | told
        )


@contextlib.contextmanager
def replicas(root: Path, count: int = 3, copies: int = 2) -> Iterator[list[Replica]]:
    """Yield members that know each other; `meet` again after one was stopped."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = [
        Replica(root / str(number), f"replica-{number}", loop, copies=copies, members=count)
        for number in range(count)
    ]
    try:
        for one in made:
            one.start()
        meet(made)
        yield made
    finally:
        for one in made:
            one.stop()
            one.cluster.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def meet(members: list[Replica]) -> None:
    """Let these know each other, as beats do."""
    for one in members:
        one.cluster.meet({each.name: each.url for each in members})
