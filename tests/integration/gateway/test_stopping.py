"""SIGTERM: calls in hand are answered, followers end, nothing new comes in."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.support.builders_records import a_record, task_id, write
from tests.support.eventually import eventually
from tests.support.gateway_world import Web, ok, open_gateway_service


async def test_a_stopping_gateway_answers_what_it_holds(world, nats_server, tmp_path):
    release = asyncio.Event()

    async def wait(_request, one):
        await release.wait()
        return ok("in time", one.index)

    world.work = wait
    async with aiohttp.ClientSession() as session:
        running = open_gateway_service(nats_server.url, tmp_path)
        web = Web(await running.__aenter__(), session)
        calling = asyncio.ensure_future(web.call(await web.deployed()))
        await eventually(lambda: world.requests)
        async with web("GET", "/api/v1/logs?follow=1&tail=0") as following:
            stopping = asyncio.ensure_future(running.__aexit__(None, None, None))
            assert await following.content.read() == b""  # ended whole, not cut
        await eventually(lambda: _refuses(web))
        assert not stopping.done()
        release.set()
        assert json.loads((await calling)[1]) == "in time"
        await stopping


async def _refuses(web) -> bool:
    try:
        async with aiohttp.ClientSession() as fresh, fresh.get(f"{web.url}/health"):
            return False
    except aiohttp.ClientConnectorError:
        return True


async def test_a_call_that_outlasts_the_drain_is_cut(world, nats_server, tmp_path):
    release = asyncio.Event()

    async def wait(_request, one):
        await release.wait()
        return ok(None, one.index)

    world.work = wait
    async with aiohttp.ClientSession() as session:
        async with open_gateway_service(nats_server.url, tmp_path, drain_s=0.2) as url:
            web = Web(url, session)
            calling = asyncio.ensure_future(web.call(await web.deployed()))
            await eventually(lambda: world.requests)
        with pytest.raises(aiohttp.ClientError):
            await calling
    release.set()


async def test_who_follows_or_awaits_a_task_is_let_go_at_once(world, bus, nats_server, tmp_path):
    await write(bus, a_record(1))
    async with aiohttp.ClientSession() as session:
        running = open_gateway_service(nats_server.url, tmp_path, drain_s=600.0)
        web = Web(await running.__aenter__(), session)
        waiting = asyncio.ensure_future(
            web.json("GET", f"/api/v1/tasks/{task_id(1)}/result?wait_s=300", status=202)
        )
        async with web("GET", f"/tasks/{task_id(1)}/subscribe") as following:
            assert await following.content.readline()
            stopping = asyncio.ensure_future(running.__aexit__(None, None, None))
            assert b"pending" in await following.content.read()  # ended whole, not cut
        assert (await waiting)["state"] == "pending"
        await stopping
