"""Bare nats-py + uvloop: an echo over core request/reply, and one through a JetStream memory stream.

python -m benchmarks.peers.nats_echo serve URL
python -m benchmarks.peers.nats_echo ask URL core|stream     reads "N\\n", answers N times in seconds (JSON)
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import nats
import uvloop
from nats.js.api import StorageType

PAYLOAD = b"x" * 200


async def serve(url: str) -> None:
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="ECHO", subjects=["stream.*"], storage=StorageType.MEMORY)

    async def core(message) -> None:
        await connection.publish(message.reply, message.data)

    async def stream(message) -> None:
        await connection.publish(message.headers["Reply-To"], message.data)

    await connection.subscribe("core.echo", cb=core)
    await jetstream.subscribe("stream.*", cb=stream, ordered_consumer=True)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def ask(url: str, way: str) -> None:
    connection = await nats.connect(url)
    inbox = connection.new_inbox()
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_answer(message) -> None:
        answers.put_nowait(message.data)

    await connection.subscribe(inbox, cb=on_answer)

    async def core() -> None:
        await connection.request("core.echo", PAYLOAD, timeout=5)

    async def stream() -> None:
        await connection.publish("stream.echo", PAYLOAD, headers={"Reply-To": inbox})
        await answers.get()

    call = {"core": core, "stream": stream}[way]
    for _ in range(50):
        await call()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    verb, url, *rest = sys.argv[1:]
    uvloop.run(serve(url) if verb == "serve" else ask(url, *rest))
