"""A small HTTP/1.1 load generator on raw transports, so that the client costs every peer the same.

python -m benchmarks.peers.load PORT PATH TOKEN     reads "CONNECTIONS REQUESTS\\n", prints
{"seconds": …, "times": […]} as JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

BODY = json.dumps({"value": "x" * 200}).encode()


class Connection(asyncio.Protocol):
    def __init__(self, request: bytes, left: list[int], times: list[float]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = left
        self._times = times
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._left[0] <= 0:
            self._transport.close()
            return
        self._left[0] -= 1
        self._started = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"unexpected answer: {self._buffer[:500]!r}")
        self._times.append(time.perf_counter() - self._started)
        self._buffer = b""
        self._next()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def load(
    port: int, path: str, token: str, connections: int, requests: int
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    ).encode() + BODY
    left, times = [requests], list[float]()
    started = time.perf_counter()
    made = [
        await loop.create_connection(lambda: Connection(request, left, times), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return {"seconds": time.perf_counter() - started, "times": times}


def main() -> None:
    port, path, token = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    print("ready", flush=True)
    for line in sys.stdin:
        connections, requests = map(int, line.split())
        print(json.dumps(uvloop.run(load(port, path, token, connections, requests))), flush=True)


if __name__ == "__main__":
    main()
