"""One gateway in this process, on a real broker, in a fake world."""

from __future__ import annotations

import aiohttp
import pytest

from tests.support.gateway_world import SOURCE, Web, open_gateway_service, open_world


@pytest.fixture
async def world(bus, nats_server):
    async with open_world(nats_server.url) as world:
        world.store(SOURCE)
        yield world


@pytest.fixture
async def gateway(world, nats_server, tmp_path):
    async with (
        open_gateway_service(nats_server.url, tmp_path) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Web(url, session)
