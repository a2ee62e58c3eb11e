"""Volumes over HTTP: quotas."""

from __future__ import annotations

import asyncio
import io

import aiohttp

from tests.support.gateway_world import Web, open_gateway_service

FILE = "/api/v1/volumes/v/file?path="


async def test_uploads_stop_at_the_quota_and_leave_nothing_behind(world, nats_server, tmp_path):
    quota = {"volume_bytes_max": 1_000_000, "volume_files_max": 4}
    async with (
        open_gateway_service(
            nats_server.url, tmp_path, volumes_dir=str(tmp_path / "volumes"), **quota
        ) as url,
        aiohttp.ClientSession() as session,
    ):
        web = Web(url, session)
        await web.json("POST", "/api/v1/volumes", json={"name": "v"})

        async def put(path: str, size: int) -> int:
            data = io.BytesIO(b"x" * size)
            async with web("PUT", FILE + path, data=data) as response:
                if response.status == 507:
                    assert (await response.json())["error"]["code"] == "volume.full"
                return response.status

        assert await put("a", 600_000) == 200
        assert await put("b", 600_000) == 507
        assert await put("a", 900_000) == 200  # what it replaces makes room
        assert await put("b", 100_000) == 200
        found = await asyncio.gather(*(put(f"c{number}", 0) for number in range(5)))
        assert sorted(found) == [200, 200, 507, 507, 507]
        assert len(list((tmp_path / "volumes" / "default" / "v").iterdir())) == 4
        usage = await web.json("GET", "/api/v1/volumes/v/usage")
        assert usage == {
            "name": "v",
            "files": 4,
            "bytes": 1_000_000,
            "complete": True,
            "files_max": 4,
            "bytes_max": 1_000_000,
        }
        await web.json("DELETE", FILE + "a")
        assert await put("b", 900_000) == 200
        assert await put("new/d", 1) == 200
        assert await put("new/e", 1) == 507
        await web.json("GET", "/api/v1/volumes/none/usage", 404)
        assert await put("new/../x", 1) == 422
