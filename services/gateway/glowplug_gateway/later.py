"""Opening the gRPC door a moment after everything else.

Importing grpc takes longer than all else of the gateway's start together, and most platforms are never called
over it: so it happens in the background, once the gateway is ready, and a door that can't be opened is told in
health and ends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import structlog
from glowplug_runtime.failures import PortTakenError

log = structlog.get_logger()

# The other parts of a platform start at the same time and need the processor more.
OPEN_AFTER_S: Final = 1.0

OpenDoor = Callable[[], AbstractAsyncContextManager[int]]


@contextlib.asynccontextmanager
async def open_later(
    modules: tuple[str, ...],
    open_door: OpenDoor,
    tell: Callable[[str], None],
    tasks: asyncio.TaskGroup,
) -> AsyncIterator[None]:
    """Import `modules`, open the door, and keep it open until the context is left.

    `tell` hears where it is open, or why it is not.
    """
    leaving = asyncio.Event()
    opening = tasks.create_task(_keep_open(modules, open_door, tell, leaving), name="grpc")
    try:
        yield
    finally:
        leaving.set()
        await opening


async def _keep_open(
    modules: tuple[str, ...],
    open_door: OpenDoor,
    tell: Callable[[str], None],
    leaving: asyncio.Event,
) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPEN_AFTER_S):
            await leaving.wait()
            return
    try:
        for module in modules:
            await asyncio.to_thread(_load, module)
        async with open_door() as port:
            tell(str(port))
            await leaving.wait()
    except (PortTakenError, ImportError) as error:
        log.warning("grpc.not_open", error=str(error))
        tell(f"not open: {error}")


def _load(module: str) -> Any:
    return importlib.import_module(module)
