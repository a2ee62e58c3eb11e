"""The gateway's blobs with several imagecaches: one that is dead is passed over, before its beats say so."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.rendezvous import ranked
from glowplug_gateway.blobs import open_blobs
from glowplug_imagecache.objects import digest_of

from tests.support.builders_images import TOKEN, a_store, open_imagecache
from tests.support.nats import free_port


class Services:
    """Those whose beats are still believed."""

    def __init__(self, *urls: str) -> None:
        self._urls = list(urls)

    def urls(self, service: str) -> list[str]:
        return self._urls

    async def wait_for(self, service: str, timeout_s: float) -> str:
        return self._urls[0]


async def test_a_dead_replica_is_passed_over(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with open_imagecache(a_store(tmp_path)) as alive:
        datas = [f"blob {number}".encode() for number in range(20)]
        preferring_dead = [
            data for data in datas if ranked(digest_of(data), [dead, alive])[0] == dead
        ]
        assert len(preferring_dead) >= 2
        first, second = preferring_dead[:2]
        async with open_blobs(Services(dead, alive), TOKEN) as blobs:
            own = blobs.of(DEFAULT_WORKSPACE)
            assert not await own.renew(digest_of(first))  # asked again elsewhere at once
            await own.put(digest_of(first), io.BytesIO(first))  # it is passed over now
            async with own.open(digest_of(first)) as (size, pieces):
                assert (size, b"".join([piece async for piece in pieces])) == (len(first), first)
        async with open_blobs(Services(dead, alive), TOKEN) as blobs:
            own = blobs.of(DEFAULT_WORKSPACE)
            with pytest.raises(UnavailableError):  # nobody knows how much of a body is gone
                await own.put(digest_of(second), io.BytesIO(second))
            await own.put(digest_of(second), io.BytesIO(second))
            assert await own.renew(digest_of(second))
