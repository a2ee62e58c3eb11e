"""Writes down what user code says that it did, outside the platform: `python -m faults.recorder FILE [ADDRESS]`.

Each line that comes over TCP is appended to FILE with the time, and answered with the number of earlier
lines of the same invocation and kind, when it is in the kernel's hands. It prints its port.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter


async def main(path: str, address: str = "127.0.0.1") -> None:
    """Serve until standard input ends."""
    seen: Counter[tuple[str, str]] = Counter()
    with open(path, "a", buffering=1) as file:

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while line := await reader.readline():
                    said = json.loads(line)
                    key = (said["id"], said["effect"])
                    before = seen[key]
                    seen[key] += 1
                    file.write(json.dumps(said | {"at": time.time()}) + "\n")
                    writer.write(b"%d\n" % before)
            except (OSError, ValueError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(on_connection, address, 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
