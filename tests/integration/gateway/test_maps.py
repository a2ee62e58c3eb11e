"""Maps over HTTP, on a real broker: exactness under crowds, ttl, workspaces, durability."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest

from tests.support.eventually import eventually
from tests.support.gateway_world import Web, open_gateway_service

ITEM = "/api/v1/maps/m/item"
INTERNAL = "internal"


def inside(workspace: str) -> dict[str, str]:
    return {
        "Glowplug-Inside-Workspace": workspace,
        "Glowplug-Inside-Container": "ctr_1",
        "Glowplug-Inside-Deployment": "dep_1",
    }


async def put(web: Web, key: str, data: bytes = b"1", status: int = 200, **params) -> bool:
    answer = await web.json(
        "PUT", ITEM, status, params={"key": key} | params, data=io.BytesIO(data)
    )
    return answer.get("stored")


async def get(web: Web, key: str, status: int = 200) -> bytes:
    async with web("GET", ITEM, params={"key": key}) as response:
        assert response.status == status, await response.text()
        return await response.read()


async def keys(web: Web) -> list[str]:
    return (await web.json("GET", "/api/v1/maps/m/keys"))["keys"]


async def add(web: Web, key: str, by: int = 1) -> int:
    answer = await web.json("POST", "/api/v1/maps/m/add", params={"key": key}, json={"by": by})
    return answer["value"]


async def test_what_is_written_is_read_and_listed(gateway):
    odd = ["a", "a.b", "a/b", "*", ">", "ü €", " ", "x" * 256, "line\nbreak"]
    for number, key in enumerate(odd):
        assert await put(gateway, key, str(number).encode())
    for number, key in enumerate(odd):
        assert await get(gateway, key) == str(number).encode()
    assert await keys(gateway) == sorted(odd)
    assert (await gateway.json("GET", "/api/v1/maps/m"))["length"] == len(odd)
    assert (await gateway.json("GET", "/api/v1/maps"))["maps"] == [{"name": "m"}]


async def test_an_empty_value_is_a_value(gateway):
    await put(gateway, "k", b"")
    assert await get(gateway, "k") == b""
    await get(gateway, "other", 404)


@pytest.mark.parametrize("key", ["", "x" * 257, "ü" * 129])
async def test_a_key_beyond_the_bounds_is_refused(gateway, key):
    await put(gateway, key, status=422)


async def test_a_value_beyond_the_bound_is_refused(gateway):
    await put(gateway, "k", b"x" * (1024 * 1024))
    await put(gateway, "k", b"x" * (1024 * 1024 + 1), status=413)


async def test_of_many_writers_of_an_absent_key_one_succeeds(gateway):
    for _ in range(3):
        written = await asyncio.gather(
            *(put(gateway, "k", str(n).encode(), absent="1") for n in range(20))
        )
        assert written.count(True) == 1
        assert await get(gateway, "k") == str(written.index(True)).encode()
        # Removed, it is absent again, at once.
        async with gateway("DELETE", ITEM, params={"key": "k"}) as response:
            assert response.status == 200


async def test_sums_are_exact_under_a_crowd(gateway, nats_server, tmp_path):
    (tmp_path / "second").mkdir()
    async with (
        open_gateway_service(nats_server.url, tmp_path / "second", "gateway-2") as url,
        aiohttp.ClientSession() as session,
    ):
        other = Web(url, session)
        sums = await asyncio.gather(
            *(add(web, "n", 2) for _ in range(25) for web in (gateway, other))
        )
    assert sorted(sums) == list(range(2, 101, 2))
    assert await get(gateway, "n") == b"100"


async def test_nothing_is_added_to_what_is_no_whole_number(gateway):
    await put(gateway, "text", b'"x"')
    await gateway.json("POST", "/api/v1/maps/m/add", 422, params={"key": "text"})
    assert await get(gateway, "text") == b'"x"'


async def test_of_many_that_remove_a_key_one_gets_it(gateway):
    await put(gateway, "k", b"prize")

    async def remove() -> tuple[int, bytes]:
        async with gateway("DELETE", ITEM, params={"key": "k"}) as response:
            return response.status, await response.read()

    answers = await asyncio.gather(*(remove() for _ in range(10)))
    assert [body for status, body in answers if status == 200] == [b"prize"]
    assert await keys(gateway) == []
    await get(gateway, "k", 404)


async def test_a_value_goes_when_its_time_is_over_and_a_new_write_keeps_it(gateway):
    await put(gateway, "short", ttl_s="1")
    await put(gateway, "kept", ttl_s="1")
    await put(gateway, "kept", b"2")
    await put(gateway, "short-sum", b"5", ttl_s="1")
    assert await add(gateway, "short-sum") == 6  # adding keeps the time

    async def left() -> bool:
        return await keys(gateway) == ["kept"]

    await eventually(left, what="the short ones to go", within_s=10)
    await get(gateway, "short", 404)
    assert await get(gateway, "kept") == b"2"
    assert await put(gateway, "short", b"new", absent="1")
    await put(gateway, "k", ttl_s="0.5", status=422)


async def test_workspaces_do_not_see_each_other(gateway):
    await put(gateway, "k", b"mine")
    path = ITEM + "?key=k"
    await gateway.json("GET", path, 404, token=INTERNAL, headers=inside("other"))
    await gateway.json("PUT", path, data=b"1", token=INTERNAL, headers=inside("other"))
    assert await get(gateway, "k") == b"mine"
    other = {"token": INTERNAL, "headers": inside("other")}
    assert (await gateway.json("GET", "/api/v1/maps/m/keys", **other))["keys"] == ["k"]
    await gateway.json("DELETE", "/api/v1/maps/m", **other)
    assert await get(gateway, "k") == b"mine"


async def test_keys_come_by_pages(gateway):
    for number in range(7):
        await put(gateway, f"k{number}")
    seen, after = [], ""
    while after is not None:
        page = await gateway.json(
            "GET", "/api/v1/maps/m/keys", params={"after": after, "limit": "3"}
        )
        assert len(page["keys"]) <= 3
        seen, after = seen + page["keys"], page["next"]
    assert seen == [f"k{number}" for number in range(7)]


async def test_what_was_answered_survives_the_broker(gateway, nats_server):
    await put(gateway, "k", b"kept")
    nats_server.kill()
    nats_server.start()

    async def there() -> bool:
        async with gateway("GET", ITEM, params={"key": "k"}) as response:
            return response.status == 200 and await response.read() == b"kept"

    await eventually(there, what="the value", within_s=20)
