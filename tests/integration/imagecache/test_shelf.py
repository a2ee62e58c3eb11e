"""A workspace's images over HTTP: listed, looked into, compared, and given up; nobody else's are there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.manifests import WORKSPACE_HEADER
from glowplug_contracts.streams import BUILD_STEPS, DEPLOYMENTS, IMAGES
from glowplug_imagecache.keeping import Keeper
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_eviction import a_deployment
from tests.support.builders_images import TOKEN, a_store, file_image
from tests.support.pretend_worker import PretendWorker

Door = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def door(imagecache: Shell[ImagecacheSettings]) -> AsyncIterator[Door]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        async def ask(
            method: str, path: str, workspace: str = DEFAULT_WORKSPACE
        ) -> tuple[int, Any]:
            headers = {WORKSPACE_HEADER: workspace}
            async with session.request(method, imagecache.url + path, headers=headers) as answer:
                return answer.status, await answer.json()

        yield ask


@pytest.fixture
def store(imagecache: Shell[ImagecacheSettings]) -> Store:
    return a_store(Path(imagecache.settings.data_dir))


async def test_images_are_listed_looked_into_and_compared(
    ask: Ask, worker: PretendWorker, door: Door, bus: NatsBus, store: Store
) -> None:
    one = (await ask(file_image(store, ("a", b"1\n"), ("b", b"2\n")))).done.image_digest
    two = (await ask(file_image(store, ("a", b"1\n"), NAME="value"))).done.image_digest
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(one))
    status, listed = await door("GET", "/images")
    assert status == 200
    assert {row["image_digest"]: row["used_by"] for row in listed["images"]} == {
        one: ["f v1"],
        two: [],
    }
    assert {row["state"] for row in listed["images"]} == {"ready"}
    status, shown = await door("GET", f"/images/{one[:8]}")
    assert (status, shown["image"]["steps"]) == (200, ["add a", "add b"])
    assert [row["bytes"] for row in shown["largest"]] == [2, 2]
    assert 0 < shown["own_bytes"] < shown["stored_bytes"]
    status, diff = await door("GET", f"/images/{two}/diff/{one}")
    assert (status, diff["changes"][-1]["path"], diff["bytes_shared"]) == (200, "b", 2)
    assert diff["settings"] == {"env NAME": ["value", ""]}
    status, usage = await door("GET", "/images/usage")
    mine = usage["workspace"]
    assert (status, mine["images"], mine["logical_bytes"], mine["distinct_bytes"]) == (200, 2, 6, 4)


async def test_anothers_images_are_not_there(
    ask: Ask, worker: PretendWorker, door: Door, store: Store
) -> None:
    image = (await ask(file_image(store, ("a", b"1\n")))).done.image_digest
    assert await door("GET", "/images", "other") == (200, {"images": []})
    for method, path in (
        ("GET", f"/images/{image}"),
        ("GET", f"/images/{image}/diff/{image}"),
        ("DELETE", f"/images/{image}"),
    ):
        status, said = await door(method, path, "other")
        assert (status, said["error"]["code"]) == (404, "image.not_found")
    assert (await door("POST", "/images/prune", "other"))[1]["images"] == []
    assert (await door("GET", "/images/usage", "other"))[1]["workspace"]["images"] == 0
    assert (await door("GET", "/images", "no.such name"))[0] == 422
    assert len((await door("GET", "/images"))[1]["images"]) == 1
    assert store.used_at(image) is not None  # type: ignore[arg-type]


async def test_what_is_needed_is_not_given_up_and_the_rest_comes_back_as_room(
    ask: Ask,
    worker: PretendWorker,
    door: Door,
    bus: NatsBus,
    imagecache: Shell[ImagecacheSettings],
    store: Store,
) -> None:
    needed = (await ask(file_image(store, ("a", b"1\n")))).done.image_digest
    free = (await ask(file_image(store, ("b", b"2\n"), ("c", b"3\n")))).done.image_digest
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(needed))
    status, said = await door("DELETE", f"/images/{needed}")
    assert (status, said["error"]["code"]) == (409, "image.in_use")
    assert "f v1" in said["error"]["message"]
    status, said = await door("DELETE", f"/images/{free}")
    assert (status, said["image_digest"]) == (200, free)
    assert [row["image_digest"] for row in (await door("GET", "/images"))[1]["images"]] == [needed]
    assert len(await bus.bucket(BUILD_STEPS).entries()) == 1
    await asyncio.to_thread(make_chunks_old, store)
    # There is room for all: what was given up goes all the same, with its steps' images.
    imagecache.settings = msgspec.structs.replace(imagecache.settings, evict_s=0.0)
    keeper = Keeper(imagecache, store, list)
    await keeper.tick()
    assert keeper.last is not None
    assert len(keeper.last.images) == 2
    assert keeper.last.swept == 2
    assert store.used_at(needed) is not None  # type: ignore[arg-type]
    assert store.used_at(free) is None  # type: ignore[arg-type]
    again = await ask(file_image(store, ("b", b"2\n"), ("c", b"3\n")))
    assert (again.done.image_digest, [cached for _, cached in again.steps]) == (
        free,
        [False, False],
    )


def make_chunks_old(store: Store) -> None:
    for path in (store.root / "chunks").rglob("*"):
        if path.is_file():
            os.utime(path, (5.0, 5.0))


async def test_prune_gives_up_what_nothing_needs_and_says_so_first(
    ask: Ask, worker: PretendWorker, door: Door, bus: NatsBus, store: Store
) -> None:
    needed = (await ask(file_image(store, ("a", b"1\n")))).done.image_digest
    free = (await ask(file_image(store, ("b", b"2\n")))).done.image_digest
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(needed))
    assert (await door("POST", "/images/prune?older_than_s=3600"))[1]["images"] == []
    assert (await door("POST", "/images/prune?older_than_s=-1"))[0] == 422
    for query in ("?dry_run=1", ""):
        status, said = await door("POST", f"/images/prune{query}")
        assert (status, [row["image_digest"] for row in said["images"]]) == (200, [free])
    assert [row["image_digest"] for row in (await door("GET", "/images"))[1]["images"]] == [needed]


async def test_looking_keeps_nothing_alive_and_says_what_is_hurt(
    ask: Ask, worker: PretendWorker, door: Door, store: Store, bus: NatsBus
) -> None:
    image = (await ask(file_image(store, ("a", b"1\n")))).done.image_digest
    manifest = store.root / "blobs" / image[:2] / image
    os.utime(manifest, (5.0, 5.0))
    await door("GET", f"/images/{image}")
    await door("GET", "/images/usage")
    assert (await door("GET", "/images"))[1]["images"][0]["used_at"] == 5.0
    await asyncio.to_thread(lose_a_chunk, store)
    assert (await door("GET", "/images"))[1]["images"][0]["state"] == "hurt"
    assert (await door("GET", f"/images/{image}"))[1]["missing"] == 1
    manifest.unlink()
    assert (await door("GET", "/images"))[1]["images"][0]["state"] == "gone"
    assert (await door("GET", f"/images/{image}"))[0] == 404
    assert len(await bus.bucket(IMAGES).entries()) == 1


def lose_a_chunk(store: Store) -> None:
    next(path for path in (store.root / "chunks").rglob("*") if path.is_file()).unlink()
