"""Outputs over HTTP: saved from inside a container only, seen by one workspace, public by signature."""

from __future__ import annotations

import io
import json

import aiohttp
import pytest

from tests.support.eventually import eventually
from tests.support.gateway_world import Web, open_gateway_service

TASK = "inv_00000000000000000000000001"
OTHER = "inv_00000000000000000000000002"
PART = 4 * 1024 * 1024


def inside(deployment: str = "dep_1", *, task: str = TASK, workspace: str = "default") -> dict:
    headers = {
        "Glowplug-Inside-Workspace": workspace,
        "Glowplug-Inside-Container": "ctr_1",
        "Glowplug-Inside-Deployment": deployment,
    }
    return {
        "token": "internal",
        "headers": headers | ({"Glowplug-Inside-Parent": task} if task else {}),
    }


async def send_parts(web: Web, *parts: bytes, **who) -> list[str]:
    asked = inside(**who)
    return [
        (await web.json("POST", "/api/v1/outputs/parts", 201, data=io.BytesIO(part), **asked))[
            "digest"
        ]
        for part in parts
    ]


async def save(web: Web, name: str, *parts: bytes, status: int = 201, **who) -> dict:
    body = {"name": name, "parts": await send_parts(web, *parts, **who)}
    return await web.json("POST", "/api/v1/outputs", status, json=body, **inside(**who))


async def link(web: Web, output_id: str, **body) -> str:
    """Return the path of a public address."""
    made = await web.json("POST", f"/api/v1/outputs/{output_id}/url", json=body)
    return made["url"].removeprefix(web.url)


async def test_parts_become_a_file_that_is_read_whole_and_in_ranges(gateway, world):
    saved = await save(gateway, "out.bin", b"a" * PART, b"b" * 10)
    assert saved["size"] == PART + 10
    content = f"/api/v1/outputs/{saved['output_id']}/content"
    async with gateway("GET", content) as response:
        assert await response.read() == b"a" * PART + b"b" * 10
    async with gateway("GET", content, headers={"Range": f"bytes={PART - 2}-{PART + 2}"}) as found:
        assert (found.status, await found.read()) == (206, b"aabbb")
        assert found.headers["Content-Range"] == f"bytes {PART - 2}-{PART + 2}/{PART + 10}"
    async with gateway("GET", f"{content}?from={PART + 4}") as response:
        assert (response.status, await response.read()) == (200, b"b" * 6)
    async with gateway("GET", content, headers={"Range": "bytes=99999999-"}) as response:
        assert response.status == 416
    assert all(int(kept) > 7 * 86_400 for blob, kept in world.kept.items() if blob in world.blobs)


async def test_the_same_again_is_the_same_output_and_another_content_is_another(gateway):
    first = await save(gateway, "a.txt", b"one")
    again = await save(gateway, "a.txt", b"one")
    other = await save(gateway, "a.txt", b"two")
    elsewhere = await save(gateway, "a.txt", b"one", task=OTHER)
    empty = await save(gateway, "empty")
    assert first["output_id"] == again["output_id"]
    assert len({one["output_id"] for one in (first, other, elsewhere, empty)}) == 4
    listed = await gateway.json("GET", f"/api/v1/outputs?task={TASK}")
    assert {one["name"] for one in listed["outputs"]} == {"a.txt", "empty"}
    assert len(listed["outputs"]) == 3
    page = await gateway.json("GET", "/api/v1/outputs?limit=3")
    rest = await gateway.json("GET", f"/api/v1/outputs?limit=3&cursor={page['cursor']}")
    found = [one["output_id"] for one in page["outputs"] + rest["outputs"]]
    assert len(set(found)) == len(found) == 4
    assert rest["cursor"] is None


async def test_another_workspace_sees_nothing_of_it(gateway):
    saved = await save(gateway, "a.txt", b"one")
    path = f"/api/v1/outputs/{saved['output_id']}"
    stranger = inside(workspace="other")
    await gateway.json("GET", path, 404, **stranger)
    await gateway.json("GET", f"{path}/content", 404, **stranger)
    await gateway.json("POST", f"{path}/url", 404, json={}, **stranger)
    assert (await gateway.json("GET", "/api/v1/outputs", **stranger))["outputs"] == []
    assert (await gateway.json("GET", path, **inside()))["name"] == "a.txt"
    await gateway.json("GET", path, 401, token=None)


async def test_a_public_address_needs_no_token_and_cannot_be_forged(gateway):
    saved = await save(gateway, "pägé.html", b"<script>alert(1)</script>")
    other = await save(gateway, "b.html", b"secret")
    path = await link(gateway, saved["output_id"])
    async with gateway("GET", path, token=None) as response:
        assert (response.status, await response.read()) == (200, b"<script>alert(1)</script>")
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert response.headers["Content-Security-Policy"].startswith("sandbox")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Type"] == "application/octet-stream"
    async with gateway("HEAD", path, token=None) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "25")
    forged = [
        path.replace("expires=", "expires=9"),
        path[:-1] + ("0" if path[-1] != "0" else "1"),
        path.partition("?")[0],
        path.replace(saved["output_id"], other["output_id"]),
        path.replace("html", "htm"),
    ]
    for one in forged:
        async with gateway("GET", one, token=None) as response:
            assert response.status == 403, one
            assert (await response.json())["error"]["code"] == "output.bad_link"
    await gateway.json("DELETE", f"/api/v1/outputs/{saved['output_id']}")
    await gateway.json("GET", path, 404, token=None)
    await gateway.json("GET", f"/api/v1/outputs/{saved['output_id']}", 404)


async def test_an_address_ends(gateway):
    saved = await save(gateway, "a.txt", b"one")
    path = await link(gateway, saved["output_id"], expires_s=1)

    async def refused() -> str:
        async with gateway("GET", path, token=None) as response:
            body = await response.read()
            return json.loads(body)["error"]["code"] if response.status == 403 else ""

    assert await eventually(refused) == "output.link_expired"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".."])
async def test_a_name_that_leads_anywhere_is_refused(gateway, name):
    await save(gateway, name, b"x", status=422)


async def test_only_code_that_runs_for_a_call_saves(gateway):
    refused = await save(gateway, "a.txt", b"x", task="", status=422)
    assert refused["error"]["code"] == "output.none_here"
    await gateway.json("POST", "/api/v1/outputs/parts", 403, data=b"x")
    await gateway.json("POST", "/api/v1/outputs", 403, json={"name": "a", "parts": []})
    unknown = {"name": "a", "parts": ["0" * 64]}
    await gateway.json("POST", "/api/v1/outputs", 422, json=unknown, **inside())


async def test_bounds(world, nats_server, tmp_path):
    async with (
        open_gateway_service(nats_server.url, tmp_path, output_bytes_max=PART) as url,
        aiohttp.ClientSession() as session,
    ):
        web = Web(url, session)
        await web.json(
            "POST", "/api/v1/outputs/parts", 413, data=io.BytesIO(b"x" * (PART + 1)), **inside()
        )
        await web.json("POST", "/api/v1/outputs/parts", 422, data=b"", **inside())
        refused = await save(web, "a", b"x" * PART, b"y", status=413)
        assert refused["error"]["code"] == "request.too_large"
        await save(web, "a", b"x", b"y", b"z", status=413)
        saved = await save(web, "a", b"x" * PART)
        path = f"/api/v1/outputs/{saved['output_id']}/url"
        for bad in ({"expires_s": 0}, {"expires_s": 8 * 86_400}, {"expires_s": "x"}):
            await web.json("POST", path, 422, json=bad)
