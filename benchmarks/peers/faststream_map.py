"""FastStream over NATS: 1,000 RPC calls gathered.

python -m benchmarks.peers.faststream_map serve URL
python -m benchmarks.peers.faststream_map ask URL      reads "N\\n", prints the seconds of one gather of N
"""

from __future__ import annotations

import asyncio
import sys
import time


async def serve(url: str) -> None:
    from faststream.nats import NatsBroker

    broker = NatsBroker(url, log_level=50)

    @broker.subscriber("noop", max_workers=256)
    async def noop(value: int) -> int:
        return value

    await broker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def ask(url: str) -> None:
    from faststream.nats import NatsBroker

    async with NatsBroker(url, log_level=50) as broker:
        await broker.start()
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            number = int(line)
            started = time.perf_counter()
            answers = await asyncio.gather(
                *(broker.request(n, "noop", timeout=30) for n in range(number))
            )
            seconds = time.perf_counter() - started
            assert len(answers) == number
            print(seconds, flush=True)


if __name__ == "__main__":
    import uvloop

    verb, url = sys.argv[1:]
    uvloop.run(serve(url) if verb == "serve" else ask(url))
