"""A broker that can't do what the platform builds on is refused, not discovered later."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.failures import BrokerTooOldError


async def test_a_broker_without_timers_is_refused_with_a_sentence() -> None:
    answering = []

    async def as_2_12(reader, writer) -> None:
        """Greet and answer pings, as nats-server 2.12 does."""
        answering.append(asyncio.current_task())
        info = {"server_id": "old", "version": "2.12.3", "proto": 1, "headers": True}
        info |= {"jetstream": True, "max_payload": 1 << 20}
        with contextlib.suppress(ConnectionError):  # it looks whether somebody listens, and goes
            writer.write(f"INFO {json.dumps(info)}\r\n".encode())
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(as_2_12, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerTooOldError, match=r"is 2\.12; Glowplug needs 2\.14 or newer"):
            async with open_bus(f"nats://127.0.0.1:{port}", instance="t"):
                pass
        await asyncio.gather(*answering)
