"""Queues over HTTP, on a real broker: order, one getter for each item, waiting, durability."""

from __future__ import annotations

import asyncio
import base64
import io

import aiohttp

from tests.support.eventually import eventually
from tests.support.gateway_world import Web, open_gateway_service

QUEUE = "/api/v1/queues/q"


async def put(web: Web, *values: str, status: int = 200, ids=None, **params) -> None:
    items = [
        {"format": "json", "data": base64.b64encode(value.encode()).decode()} for value in values
    ]
    for item, item_id in zip(items, ids or (), strict=False):
        item["item_id"] = item_id
    await web.json("POST", f"{QUEUE}/items", status, params=params, json={"items": items})


async def take(web: Web, count: int = 1, wait_s: float = 0.0, **params) -> list[str]:
    asked = {"count": str(count), "wait_s": str(wait_s)} | params
    answer = await web.json("POST", f"{QUEUE}/take", params=asked)
    return [base64.b64decode(item["data"]).decode() for item in answer["items"]]


async def length(web: Web) -> int:
    return (await web.json("GET", QUEUE))["length"]


async def test_items_come_out_as_they_went_in(gateway):
    await put(gateway, "a", "b", "c")
    await put(gateway, "d")
    assert await length(gateway) == 4
    assert await take(gateway, 3) == ["a", "b", "c"]
    assert await take(gateway, 3) == ["d"]
    assert await take(gateway, 3) == []
    assert await length(gateway) == 0


async def test_partitions_have_an_order_of_their_own(gateway):
    await put(gateway, "a", partition="x")
    await put(gateway, "b", partition="y")
    await put(gateway, "c")
    found = await gateway.json("GET", QUEUE)
    assert found["partitions"] == {"": 1, "x": 1, "y": 1}
    assert await take(gateway, partition="y") == ["b"]
    assert (await gateway.json("DELETE", QUEUE, params={"partition": "x"}))["removed"] == 1
    assert await take(gateway, 5) == ["c"]


async def test_each_item_goes_to_one_getter_of_many_at_two_gateways(gateway, nats_server, tmp_path):
    (tmp_path / "second").mkdir()
    sent = [str(number) for number in range(60)]
    async with (
        open_gateway_service(nats_server.url, tmp_path / "second", "gateway-2") as url,
        aiohttp.ClientSession() as session,
    ):
        other = Web(url, session)

        async def get_all(web: Web) -> list[str]:
            got: list[str] = []
            while found := await take(web, 2, wait_s=0.5):
                got += found
            return got

        getting = [asyncio.create_task(get_all(web)) for web in (gateway, other) * 3]
        for at in range(0, len(sent), 4):
            await put(gateway if at % 8 else other, *sent[at : at + 4])
        got = await asyncio.gather(*getting)
    assert sorted(item for each in got for item in each) == sorted(sent)
    for each in got:
        assert each == sorted(each, key=int)  # nobody saw a newer one before an older one


async def test_who_waits_is_woken_by_a_put_at_another_gateway(gateway, nats_server, tmp_path):
    (tmp_path / "second").mkdir()
    async with (
        open_gateway_service(nats_server.url, tmp_path / "second", "gateway-2") as url,
        aiohttp.ClientSession() as session,
    ):
        waiting = asyncio.create_task(take(gateway, wait_s=30))
        await put(Web(url, session), "a")
        assert await waiting == ["a"]


async def test_a_getter_that_gave_up_waiting_takes_nothing(gateway):
    waiting = [asyncio.create_task(take(gateway, wait_s=30)) for _ in range(3)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await put(gateway, "a")

    async def back() -> bool:
        return await take(gateway) == ["a"]

    await eventually(back, what="the item")


async def test_an_item_that_is_sent_again_is_there_once(gateway):
    await put(gateway, "a", "b", ids=["one", "two"])
    await put(gateway, "a", "b", ids=["one", "two"])
    assert await take(gateway, 5) == ["a", "b"]


async def test_a_look_takes_nothing(gateway):
    await gateway.json("GET", f"{QUEUE}/first", 404)
    await put(gateway, "a")
    for _ in range(2):
        (item,) = (await gateway.json("GET", f"{QUEUE}/first"))["items"]
        assert base64.b64decode(item["data"]) == b"a"
    assert await take(gateway) == ["a"]


async def test_what_is_too_large_or_too_many_is_refused(gateway):
    large = base64.b64encode(b"x" * (1024 * 1024 + 1))
    body = io.BytesIO(b'{"items": [{"format": "json", "data": "' + large + b'"}]}')
    await gateway.json("POST", f"{QUEUE}/items", 413, data=body)
    await put(gateway, *["x"] * 1001, status=422)
    await gateway.json("POST", f"{QUEUE}/items", 422, json={"items": []})
    await gateway.json("POST", f"{QUEUE}/items", 422, data=b"[")
    assert await length(gateway) == 0


async def test_the_broker_killed_in_between_keeps_order_and_forgets_nothing(gateway, nats_server):
    await put(gateway, "a", "b", "c", "d")
    assert await take(gateway, 2) == ["a", "b"]
    nats_server.kill()
    nats_server.start()
    got: list[str] = []

    async def all_back() -> bool:
        async with gateway(
            "POST", f"{QUEUE}/take", params={"count": "5", "wait_s": "0"}
        ) as response:
            if response.status == 200:
                items = (await response.json())["items"]
                got.extend(base64.b64decode(item["data"]).decode() for item in items)
        return len(got) >= 2

    await eventually(all_back, what="what was left", within_s=20)
    assert got == ["c", "d"]
