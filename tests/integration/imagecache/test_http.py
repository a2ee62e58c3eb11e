"""imagecache's HTTP door, and the worker's client of it."""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
import pytest
from glowplug_contracts.errors import (
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.ids import Digest
from glowplug_imagecache.objects import digest_of, frame_of
from glowplug_imagecache.store import LEASE_GRACE_S
from glowplug_worker.images import client as client_module
from glowplug_worker.images.client import StoreClient, open_session

from tests.support.builders_images import TOKEN, a_store, chunk_file, open_client, open_imagecache
from tests.support.clock import FakeClock


async def test_a_large_blob_round_trips(tmp_path: Path) -> None:
    data = os.urandom(20 * 1024 * 1024)
    async with open_imagecache(a_store(tmp_path)) as url, open_client(url) as client:
        digest = await client.put(data)
        assert digest == digest_of(data)
        assert await client.get(digest) == data
        await client.fetch(digest, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data


async def test_chunks_round_trip_in_batches(tmp_path: Path) -> None:
    frames = [frame_of(os.urandom(size)) for size in (1, 1024 * 1024, 1024 * 1024, 77)]
    digests = [frame.digest for frame in frames]
    async with open_imagecache(a_store(tmp_path)) as url, open_client(url) as client:
        assert await client.missing(digests) == digests
        await client.put_chunks(frames)
        assert await client.missing(digests) == []
        assert await client.get_chunks(digests) == frames


async def test_a_chunk_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    frame, gone = frame_of(b"here"), frame_of(b"gone")
    async with open_imagecache(a_store(tmp_path)) as url, open_client(url) as client:
        await client.put_chunks([frame])
        chunk_file(tmp_path, frame.digest).write_bytes(b"rotten")
        answers = await client.get_chunks([frame.digest, gone.digest])
        assert [answer.stored for answer in answers] == [None, None]


async def test_a_blob_nobody_stored_is_not_found(tmp_path: Path) -> None:
    async with open_imagecache(a_store(tmp_path)) as url, open_client(url) as client:
        with pytest.raises(NotFoundError):
            await client.get(digest_of(b"never"))
        with pytest.raises(InvalidRequestError):
            await client.get(Digest("not-a-digest"))


async def test_a_corrupt_blob_is_not_found_and_none_of_its_bytes_are_sent(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    digest = store.add_blob(b"right")
    store.blob_path(digest).write_bytes(b"wrong")
    async with open_imagecache(store) as url, open_client(url) as client:
        with pytest.raises(NotFoundError):
            await client.get(digest)


async def test_shows_nothing_without_the_internal_token(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    digest = store.add_blob(b"secret")
    async with open_imagecache(store) as url, open_client(url, token="wrong") as client:
        with pytest.raises(PlatformError, match="own services") as caught:
            await client.get(digest)
    assert caught.value.code == "auth.bad_token"


async def test_a_lease_ends_unless_it_is_extended(tmp_path: Path) -> None:
    clock = FakeClock()
    store = a_store(tmp_path)
    async with open_imagecache(store, clock) as url, open_client(url) as client:
        kept = await client.put(b"kept", keep_s=100)
        lost = await client.put(b"lost", keep_s=100)
        deployed = await client.put(b"deployed", keep_s=100)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            for digest, seconds in ((kept, "1000"), (deployed, "forever")):
                headers = {"X-Keep-Seconds": seconds}
                async with session.head(f"{url}/blobs/{digest}", headers=headers) as answer:
                    assert int(answer.headers["Content-Length"]) == store.blob_size(digest)
        store.sweep(clock.unix() + 101 + LEASE_GRACE_S)
        assert await client.get(kept) == b"kept"
        store.sweep(clock.unix() * 2)
        assert await client.get(deployed) == b"deployed"
        with pytest.raises(NotFoundError):
            await client.get(lost)


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "1e9", "99999999999"])
async def test_refuses_a_lease_that_is_no_sensible_number(tmp_path: Path, seconds: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Keep-Seconds": seconds}
    digest = digest_of(b"x")
    async with (
        open_imagecache(a_store(tmp_path)) as url,
        aiohttp.ClientSession(headers=headers) as session,
        session.put(f"{url}/blobs/{digest}", data=b"x") as answer,
    ):
        assert answer.status == 422
        assert (await answer.json())["error"]["code"] == "request.invalid"


async def test_an_imagecache_that_is_gone_is_unavailable_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PATIENCE_S", 0.0)
    async with open_imagecache(a_store(tmp_path)) as url:
        pass
    async with open_client(url) as client:
        with pytest.raises(UnavailableError, match="broke off"):
            await client.get(digest_of(b"x"))


async def test_an_imagecache_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    digest = store.add_blob(b"data")
    urls = iter(["http://127.0.0.1:1", "http://127.0.0.1:1"])
    async with open_imagecache(store) as url, open_session(TOKEN) as session:
        client = StoreClient(session, lambda: next(urls, url))
        assert await client.get(digest) == b"data"
