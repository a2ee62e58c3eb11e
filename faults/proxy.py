"""A bad link to the broker: `python -m faults.proxy HOST:PORT [ADDRESS]` in a process of its own.

It prints its port and takes orders on standard input, one a line:
    delay S      every piece of bytes comes S seconds late, both ways, in order
    hold S       nothing passes for S seconds
    cut          every connection is reset
    swallow S    what the broker says for S seconds is lost, then every connection is reset: writes whose
                 acknowledgement was lost are sent again, so everything is delivered twice that can be
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

PIECE = 1 << 16
WAITING_MAX = 4096


class Link:
    """The state that all connections of this proxy share."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.held_until = 0.0
        self.swallow_until = 0.0
        self.writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self.writers):
            transport = writer.transport
            transport.abort()

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_broker: bool
    ) -> None:
        """Carry bytes one way until an end is gone."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_MAX)

        async def deliver() -> None:
            while True:
                came, piece = await queue.get()
                while (wait_s := max(came + self.delay_s, self.held_until) - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                writer.write(piece)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            with contextlib.suppress(OSError):
                while piece := await reader.read(PIECE):
                    if from_broker and time.monotonic() < self.swallow_until:
                        continue
                    await queue.put((time.monotonic(), piece))
        finally:
            delivering.cancel()
            writer.transport.abort()


async def main(target: str, address: str = "127.0.0.1") -> None:
    """Serve until standard input ends."""
    link = Link()
    host, _, port = target.partition(":")

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, here = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        both = {writer, here}
        link.writers |= both
        try:
            await asyncio.gather(
                link.carry(reader, here, from_broker=False),
                link.carry(there, writer, from_broker=True),
                return_exceptions=True,
            )
        finally:
            link.writers -= both

    server = await asyncio.start_server(on_connection, address, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    tasks = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order, _, seconds = line.strip().partition(" ")
        now = time.monotonic()
        match order:
            case "delay":
                link.delay_s = float(seconds)
            case "hold":
                link.held_until = now + float(seconds)
            case "cut":
                link.cut()
            case "swallow":
                link.swallow_until = now + float(seconds)
                tasks.add(asyncio.create_task(_cut_later(link, float(seconds))))


async def _cut_later(link: Link, seconds: float) -> None:
    await asyncio.sleep(seconds)
    link.cut()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
