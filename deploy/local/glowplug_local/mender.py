"""Looks after the broker's disk: asks the platform's health which streams are silent, and does what `mending` says."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from glowplug_local.mending import Mending
from glowplug_local.supervisor import Child

LOOK_S = 2.0
ASK_TIMEOUT_S = 5.0


async def keep_mending(
    broker: Child,
    url: str,
    store: Path,
    connector: aiohttp.BaseConnector,
    tell: Callable[..., None],
) -> None:
    """Go on until cancelled."""
    mending = Mending()
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        while True:
            await asyncio.sleep(LOOK_S)
            silent = await _silent_streams(http, url)
            if silent is None:
                continue
            free = shutil.disk_usage(store.parent).free
            decision = mending.step(silent, free, time.monotonic())
            names = ", ".join(silent)
            if decision == "say_full":
                tell("disk_full", streams=names, path=str(store), free_mib=free // 1024**2)
            elif decision == "restart":
                tell("mending", streams=names)
                await broker.restart()


async def _silent_streams(http: aiohttp.ClientSession, url: str) -> list[str] | None:
    """Return which streams take no writes; None while the gateway does not answer."""
    with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
        async with http.get(f"{url}/health") as answer:
            parts = (await answer.json()).get("parts") or {}
            return [str(name) for name in parts.get("broker", {}).get("silent_streams", ())]
    return None
