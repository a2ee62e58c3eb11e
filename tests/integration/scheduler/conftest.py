"""A scheduler in this process, and a gateway's side of the conversation."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from glowplug_contracts.subjects import BACKLOG, PLACEMENT, REPLY
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.service import serve
from glowplug_scheduler.service import open_service
from glowplug_scheduler.settings import SchedulerSettings


@asynccontextmanager
async def open_scheduler(url: str, instance: str = "s1", **settings: object):
    """A replica on connections of its own; leaving the context is its SIGTERM."""
    ready = asyncio.get_running_loop().create_future()
    async with open_bus(url, instance=instance) as bus:
        running = asyncio.ensure_future(
            serve(
                "scheduler",
                SchedulerSettings(**settings),
                instance,
                bus,
                open_service,
                on_ready=ready.set_result,
            )
        )
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await running
        shell = await ready
        shell.running = running
        try:
            yield shell
        finally:
            shell.stopping.set()
            await running


class Heard:
    """What a gateway and an autoscaler hear."""

    def __init__(self) -> None:
        self.replies = []
        self.backlogs = []
        self.placements = []

    async def on_reply(self, delivery) -> None:
        self.replies.append(delivery.message)

    async def on_backlog(self, delivery) -> None:
        self.backlogs.append(delivery.message)

    async def on_placement(self, delivery) -> None:
        self.placements.append(delivery.message)


@pytest.fixture
async def heard(bus):
    heard = Heard()
    await bus.listen(REPLY.pattern(instance="gateway-1"), heard.on_reply)
    await bus.listen(BACKLOG.pattern(), heard.on_backlog)
    await bus.listen(PLACEMENT.pattern(), heard.on_placement)
    return heard
