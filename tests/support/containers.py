"""Python code run in a real container of a real backend, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.container import ContainerKind
from glowplug_worker.ports import FDS, Backend, Bind, RunningContainer, StartPlan
from glowplug_worker.runtime.python import own_python

WITHIN_S = 60
# The code gets `say(value)` and `hear()`; what it says is JSON, one value a line.
PRELUDE = """
import json, os, sys
wire = int(sys.argv[1])
def say(value): os.write(wire, json.dumps(value).encode() + b'\\n')
def hear(): return os.read(wire, 4096)
"""


class Inside:
    """The near end of a container's socket."""

    def __init__(self, container: RunningContainer, sock: socket.socket) -> None:
        self.container = container
        self._sock = sock
        self._data = b""

    async def said(self) -> Any:
        """Return the next value that the code says."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WITHIN_S):
            while b"\n" not in self._data:
                data = await loop.sock_recv(self._sock, 1 << 16)
                if not data:
                    end = await self.container.wait()
                    raise AssertionError(f"the container ended: {end}")
                self._data += data
        line, self._data = self._data.split(b"\n", 1)
        return json.loads(line)

    async def tell(self, data: bytes = b"go") -> None:
        """Let a `hear()` return."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)


def a_plan(scratch: Path, backend: Backend, code: str, fd: int, **fields: Any) -> StartPlan:
    interpreter = own_python()
    values: dict[str, Any] = {
        "container_id": ContainerId(f"ctr_{os.getpid()}x{fd}"),
        "kind": ContainerKind.FUNCTION,
        "interpreter": interpreter,
        "argv": (str(interpreter.executable), "-I", "-S", "-c", PRELUDE + code, FDS),
        "fds": (fd,),
        "env": {"HOME": "/tmp"},
        "cwd": "/tmp" if backend.mounts else str(scratch),
        "scratch": scratch,
    }
    return StartPlan(**{**values, **fields})


@asynccontextmanager
async def open_container(
    backend: Backend, scratch: Path, code: str, **fields: Any
) -> AsyncIterator[Inside]:
    """Start code in a container; kill what is left at the end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    scratch.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    argv_of = fields.pop("argv_of", None)
    if argv_of is not None:
        fields["argv"] = argv_of(FDS)
    plan = a_plan(scratch, backend, code, theirs.fileno(), **fields)
    try:
        container = await backend.start(plan)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    try:
        yield Inside(container, ours)
    finally:
        ours.close()
        async with asyncio.timeout(WITHIN_S):
            await container.close()


__all__ = ["Bind", "Inside", "a_plan", "open_container"]
