"""Lines to replicas that tests cut, and kill who is at the other end, after so many bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

from tests.support.imagecaches import Processes

PIECE_BYTES = 16 * 1024


class Lines:
    """A port for each replica that stays when it is started again; `kill_after` arms all of them."""

    def __init__(self, processes: Processes, names: Sequence[str]) -> None:
        self.killed: asyncio.Queue[str] = asyncio.Queue()
        self._processes = processes
        self._names = names
        self._ports: dict[str, int] = {}
        self._points: list[int] = []
        self._moved = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Lines]:
        async with contextlib.AsyncExitStack() as stack:
            for name in self._names:
                server = await asyncio.start_server(
                    lambda reader, writer, name=name: self._carry(name, reader, writer),
                    "127.0.0.1",
                    0,
                )
                await stack.enter_async_context(server)
                self._ports[name] = server.sockets[0].getsockname()[1]
            yield self

    def urls(self) -> list[str]:
        ready = self._processes.ready()
        return [f"http://127.0.0.1:{port}" for name, port in self._ports.items() if name in ready]

    def kill_after(self, *points: int) -> None:
        """Kill whoever sends or gets the byte, counted from now on; then again after the next point."""
        self._moved, self._points = 0, list(points)

    async def _carry(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            parts = urlsplit(self._processes.url(name))
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(self._pump(name, reader, back), self._pump(name, there, writer))
        writer.close()

    async def _pump(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(PIECE_BYTES):
                    left = self._points[0] - self._moved if self._points else len(data) + 1
                    self._moved += len(data)
                    writer.write(data[: max(0, left)])
                    await writer.drain()
                    if left <= len(data) and name in self._processes.running:
                        self._points.pop(0)
                        self._processes.kill(name)
                        self.killed.put_nowait(name)
                        return
        finally:
            writer.close()
