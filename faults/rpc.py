"""Puts tasks over gRPC, for the campaign: a process of its own, because a process that uses gRPC must not fork.

A line in is a task (JSON: what the call takes); the same line out says that it was accepted. It is put again,
at the next gateway, until it is.
"""

from __future__ import annotations

import asyncio
import json
import sys

import grpc

TRY_S = 15.0
AGAIN_S = 0.1
REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


async def put(doors: list[str], token: str, task: dict[str, str]) -> None:
    """Put a task, at one door after the other. Raises: AioRpcError if it is refused for good."""
    from tests.support.grpc_client import a_client

    fields = task | {"arguments_json": task["arguments_json"].encode()}
    turn = 0
    while True:
        turn += 1
        door = doors[turn % len(doors)]
        try:
            async with asyncio.timeout(TRY_S), grpc.aio.insecure_channel(door) as way:
                await (await a_client(way, token)).ended("Put", **fields)
        except TimeoutError:
            pass
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSED:
                raise
        else:
            return
        await asyncio.sleep(AGAIN_S)


async def main(token: str, *doors: str) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await put(list(doors), token, json.loads(line))
        print(line, end="", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
