"""The cache service's HTTP door over a directory, in a process of its own: what T15 and T17 fetch from and push to.

python -m benchmarks.peers.chunk_store DIRECTORY     prints its URL, and serves until its input ends
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from glowplug_imagecache.http import make_app
from glowplug_imagecache.store import Store
from glowplug_runtime.clock import Clock
from glowplug_runtime.http import open_http

TOKEN = "benchmark"


async def main() -> None:
    store = Store(Path(sys.argv[1]), free_bytes_min=0, blob_bytes_max=1 << 32)
    async with open_http(make_app(store, Clock(), TOKEN), "127.0.0.1", 0) as port:
        print(f"http://127.0.0.1:{port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())  # as services do
