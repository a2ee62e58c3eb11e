"""Faults of whole nodes: a broker lost with its disk, a host with everything on it, a host cut off from the others."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from typing import IO, Any

from faults.fleet import Fleet, Part
from faults.nats import Broker

CAUGHT_UP_S = 60.0


async def lose_disk(fleet: Fleet, broker: Broker, name: str, down_s: float) -> bool:
    """Let a broker come back with nothing; return whether it has caught up.

    Until it has, there are two copies only, and nobody may take another: that is what an operator waits for.
    """
    part = fleet.parts[name]
    part.kill()
    shutil.rmtree(fleet.store_of(name))
    await asyncio.sleep(down_s)
    part.start()
    return await caught_up(broker)


async def lose_host(fleet: Fleet, number: int, down_s: float) -> Sequence[Part]:
    """Kill everything on a host at once; start it again after a while. Return what was killed."""
    parts = [part for name, part in fleet.parts.items() if name.endswith(f"-{number}")]
    for part in parts:
        part.kill()
    await asyncio.sleep(down_s)
    for part in parts:
        part.start()
    return parts


async def cut_off(links: Sequence[IO[bytes]], for_s: float) -> None:
    """Let nothing pass between a host and the others for a while, then reset what was open."""
    for order in (f"hold {for_s}", "cut"):
        for link in links:
            link.write(order.encode() + b"\n")
            link.flush()
        await asyncio.sleep(for_s if order != "cut" else 0)


async def caught_up(broker: Broker, within_s: float = CAUGHT_UP_S) -> bool:
    """Wait until every replica of every stream has all of it; False if one has not in time."""
    deadline = time.monotonic() + within_s
    while await behind(broker):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


async def behind(broker: Broker) -> list[str]:
    """Return the replicas that lack something of their stream, or that nobody hears of."""
    names = (await broker.api("STREAM.NAMES")).get("streams") or []
    found: list[str] = []
    for name in names:
        info: dict[str, Any] = await broker.api(f"STREAM.INFO.{name}")
        cluster = info.get("cluster") or {}
        if not cluster.get("leader"):
            found.append(f"{name} has no leader")
        found += [
            f"{name} on {replica.get('name')}: {replica.get('lag', 0)} behind"
            for replica in cluster.get("replicas") or ()
            if not replica.get("current") or replica.get("offline") or replica.get("lag")
        ]
    return found
