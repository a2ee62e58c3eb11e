"""Chooses what containers' networks are, by really making one; says so in words for people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

from glowplug_contracts.errors import UnavailableError

from glowplug_worker.networks import HostNetworks
from glowplug_worker.ports import Networks
from glowplug_worker.runtime.network import nft
from glowplug_worker.runtime.network.host import sweep
from glowplug_worker.runtime.network.rules import Plan, make_plan
from glowplug_worker.settings import WorkerSettings

Spawn = Callable[[Coroutine[Any, Any, None], str], object]
Wanted = Literal["auto", "own", "shared", "none"]
OWN = "each container has its own; public addresses only"
SHARED = "containers share this host's network"
NONE = "containers have none"
BLOCKED = (
    "; another firewall of this host (Docker's, ufw's) drops what it forwards, theirs too: see the page "
    "on networks in the guide"
)


@contextlib.asynccontextmanager
async def open_networks(
    wanted: Wanted, worker: str, spawn: Spawn, directory: Path, *, between: str, opened: str
) -> AsyncIterator[tuple[Networks, str]]:
    """Yield the networks of a worker, and what they are in words.

    Args:
        wanted: "auto" is own networks where they can be had, else the host's.
        worker: a name that no other worker of this host has.
        directory: keeps files that containers see.
        between: addresses that are used between containers and this host.
        opened: private networks that containers may reach, separated by commas.

    Raises: UnavailableError if they are wanted and can't be had; ValueError if a range can't be read.
    """
    plan = make_plan(between, opened)
    with contextlib.suppress(OSError):  # a root that may not even look
        await asyncio.to_thread(sweep)
    if wanted in ("shared", "none"):
        words = SHARED if wanted == "shared" else NONE
        yield HostNetworks(host=wanted == "shared"), f"{words}, as it was asked for"
        return
    async with contextlib.AsyncExitStack() as stack:
        try:
            networks = await stack.enter_async_context(_open_own(worker, plan, spawn, directory))
        except (OSError, UnavailableError) as error:
            if wanted == "own":
                why = f"containers can't have networks of their own here: {error}"
                raise UnavailableError("platform.unavailable", why) from error
            yield HostNetworks(), f"{SHARED} ({error})"
            return
        words = OWN + (f", and {opened}" if opened else "")
        if await asyncio.to_thread(nft.host_drops_forwarded):
            words += BLOCKED
        yield networks, words


def _open_own(
    worker: str, plan: Plan, spawn: Spawn, directory: Path
) -> AbstractAsyncContextManager[Networks]:
    if os.geteuid() != 0:
        raise UnavailableError("platform.unavailable", "the worker is not run by root")
    from glowplug_worker.runtime.network.own import open_own  # noqa: PLC0415 - only where it is used

    return open_own(worker, plan, spawn, directory)


async def _try() -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="glowplug-doctor-") as directory:
        return await _try_in(directory)


async def _try_in(directory: str) -> dict[str, object]:
    async with asyncio.TaskGroup() as tasks:
        spawn = tasks.create_task
        opening = open_networks(
            "auto",
            f"doctor {os.getpid()}",
            lambda work, name: spawn(work, name=name),
            Path(directory),
            between=WorkerSettings().network_between,
            opened="",
        )
        async with opening as (networks, words):
            return {"own": networks.own, "words": words}


def main() -> None:
    """Say in JSON what would be chosen here, for doctor."""
    sys.stdout.write(json.dumps(asyncio.run(_try())) + "\n")


if __name__ == "__main__":
    main()
