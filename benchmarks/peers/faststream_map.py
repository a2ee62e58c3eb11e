"""FastStream over NATS: 1,000 RPC calls gathered.

python -m benchmarks.peers.faststream_map serve URL
python -m benchmarks.peers.faststream_map ask URL      reads "N\\n", prints the seconds of one gather of N
"""

import asyncio
import sys
import time

from faststream import FastStream
from faststream.nats import NatsBroker

VERB, URL = sys.argv[1:]
broker = NatsBroker(URL, log_level=0)
app = FastStream(broker)


async def noop(value: int) -> int:
    return value


async def say_ready() -> None:
    print("ready", flush=True)


async def ask() -> None:
    async with NatsBroker(URL) as asking:
        await asking.start()
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            number = int(line)
            started = time.perf_counter()
            calls = (asking.request(n, "noop", timeout=60) for n in range(number))
            answers = await asyncio.gather(*calls)
            seconds = time.perf_counter() - started
            assert len(answers) == number
            print(seconds, flush=True)


if __name__ == "__main__":
    import logging

    import uvloop

    logging.disable(logging.CRITICAL)
    if VERB == "serve":
        broker.subscriber("noop")(noop)
        app.after_startup(say_ready)
        uvloop.run(app.run())
    else:
        uvloop.run(ask())
