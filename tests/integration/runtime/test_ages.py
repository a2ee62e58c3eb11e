"""How long a stream keeps messages can be told, and changes on a platform that is there already."""

from __future__ import annotations

from typing import Any

from glowplug_contracts.streams import LOGS
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.follower import NS
from glowplug_runtime.topology import ensure_topology


async def test_logs_are_kept_as_long_as_the_platform_is_told(nats_server: Any) -> None:
    async with open_bus(nats_server.url, instance="test") as bus:

        async def age_s() -> float:
            found = await bus.api(f"STREAM.INFO.{LOGS.name}", {})
            return found["config"]["max_age"] / NS

        await ensure_topology(bus, shards=1, ages={LOGS.name: 3600.0})
        assert await age_s() == 3600.0
        await ensure_topology(bus, shards=1)
        assert await age_s() == LOGS.max_age_s
