"""Who knows the digest of another workspace's bytes gets nothing for it, and learns nothing by it.

The real store behind a real gateway, two workspaces, and what their workers do. The owner is the control:
every door that is closed to the other opens to it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from blake3 import blake3
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.messages.deployment import (
    DeploymentSpec,
    FunctionKind,
    ImageSpec,
    ImageStep,
    Principal,
    SourceRef,
)
from glowplug_contracts.streams import TOKENS
from glowplug_gateway.auth import token_digest
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.store import Store
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.topology import ensure_topology
from glowplug_worker.blobs import CachedBlobs
from glowplug_worker.images.client import StoreClient, open_session

from tests.support.builders_images import a_store, open_imagecache
from tests.support.gateway_world import SOURCE, Web, open_gateway_service, open_world
from tests.support.nats import open_nats_server

OTHER = "gp_other"
OWNER, STRANGER = WorkspaceId("default"), WorkspaceId("other")
CONTENT = b"zqxcontent of one workspace"
DIGEST = Digest(blake3(CONTENT).hexdigest())
CONTROL = "the owner gets it by the same request"
INTERNAL = "internal"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Two(msgspec.Struct):
    """One platform of two workspaces; CONTENT and SOURCE belong to the first."""

    web: Web
    store: Store
    cache_url: str
    own: str  # a function of the first
    others: str  # a function of the second


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    tmp_path = tmp_path_factory.mktemp("blobs")
    store = a_store(tmp_path / "store")
    with open_nats_server(tmp_path / "nats") as server:
        async with open_bus(server.url, instance="test") as bus:
            await ensure_topology(bus, shards=1)
            other = Principal(workspace=STRANGER, name="other")
            await bus.bucket(TOKENS).create(token_digest(OTHER), other)
            async with (
                open_imagecache(store, token=INTERNAL) as cache_url,
                open_world(server.url, cache_url),
                open_gateway_service(server.url, tmp_path) as url,
                aiohttp.ClientSession() as session,
            ):
                web = Web(url, session)
                for data in (CONTENT, SOURCE):
                    await web.json("PUT", place(blake3(data).hexdigest()), data=data)
                own = await web.deployed(kind=FunctionKind.FUNCTION)
                theirs = {"data": b"their own", "token": OTHER}
                named = blake3(b"their own").hexdigest()
                await web.json("PUT", place(named), **theirs)
                others = await deploy(web, SourceRef(blob=Digest(named), handler="app:f"))
                yield Two(web, store, cache_url, own, others[-1]["deployment"]["deployment_id"])


def place(digest: str) -> str:
    return f"/api/v1/blobs/{digest}"


async def deploy(web: Web, source: SourceRef, status: int = 200, **spec: Any) -> list[Any]:
    """Deploy for the other workspace."""
    asked = DeploymentSpec(name="theirs", kind=FunctionKind.FUNCTION, source=source, **spec)
    sent = {"data": encode(asked, "json"), "token": OTHER}
    async with web("POST", "/api/v1/deployments", **sent) as answer:
        text = await answer.text()
        assert answer.status == status, text
        return [json.loads(line) for line in text.splitlines()]


async def status_of(web: Web, method: str, path: str, token: str, **fields: Any) -> int:
    async with web(method, path, token=token, **fields) as answer:
        body = await answer.read()
        assert CONTENT not in body or token != OTHER
        return answer.status


@pytest.mark.attempt(control=CONTROL)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_another_workspaces_bytes_are_not_there(two, method):
    assert await status_of(two.web, method, place(DIGEST), "gp_local") == 200
    assert await status_of(two.web, method, place(DIGEST), OTHER) == 404
    assert await status_of(two.web, method, place("0" * 64), OTHER) == 404


@pytest.mark.attempt(control=CONTROL)
async def test_an_upload_says_the_same_whether_or_not_another_has_the_bytes(two):
    known = blake3(SOURCE).hexdigest()
    assert await status_of(two.web, "HEAD", place(known), OTHER) == 404
    said = set()
    for digest in (known, blake3(b"never").hexdigest()):
        wrong = {"data": b"not it", "token": OTHER}
        refused = await two.web.json("PUT", place(digest), 422, **wrong)
        said.add(refused["error"]["message"].replace(digest, ""))
        assert await status_of(two.web, "HEAD", place(digest), OTHER) == 404
    assert len(said) == 1
    for data in (SOURCE, b"new"):
        digest = blake3(data).hexdigest()
        stored = await two.web.json("PUT", place(digest), data=data, token=OTHER)
        assert stored == {"digest": digest}
        assert await status_of(two.web, "HEAD", place(digest), OTHER) == 200
    # It is theirs now because they had it, and in a file of its own.
    kept = [two.store.blob_path(Digest(known), one) for one in (OWNER, STRANGER)]
    assert kept[0].stat().st_ino != kept[1].stat().st_ino


@pytest.mark.attempt(control="the owner deploys it")
@pytest.mark.parametrize("field", ["blob", "pickled", "on_start_pickled", "on_exit_pickled"])
async def test_another_workspaces_source_cannot_be_deployed(two, field):
    theirs = SourceRef(blob=Digest(blake3(b"their own").hexdigest()), handler="app:f")
    refused = await deploy(two.web, msgspec.structs.replace(theirs, **{field: DIGEST}), 422)
    assert refused[0]["error"]["code"] == "request.bad_digest"
    assert DIGEST in refused[0]["error"]["message"]


@pytest.mark.attempt(control="the owner builds with it")
async def test_another_workspaces_files_cannot_be_put_into_an_image(two):
    image = ImageSpec(steps=(ImageStep(kind="file", args=("f",), blob=DIGEST),))
    theirs = SourceRef(blob=Digest(blake3(b"their own").hexdigest()), handler="app:f")
    refused = await deploy(two.web, theirs, 422, image=image)
    assert refused[0]["error"]["code"] == "request.bad_digest"
    sandbox = {"image": msgspec.to_builtins(image)}
    assert await status_of(two.web, "POST", "/api/v1/sandboxes", OTHER, json=sandbox) == 422


@pytest.mark.attempt(control="the owner's task is accepted with it")
async def test_another_workspaces_bytes_are_no_arguments_of_a_task(two):
    named = {
        "Glowplug-Blob": DIGEST,
        "Glowplug-Size": str(len(CONTENT)),
        "Glowplug-Format": "json",
    }
    for deployment, token, expected in ((two.own, "gp_local", 202), (two.others, OTHER, 422)):
        path = f"/api/v1/deployments/{deployment}/spawn"
        assert await status_of(two.web, "POST", path, token, headers=named) == expected


@pytest.mark.attempt(control="the owner's worker gets it, and from memory the second time")
async def test_a_call_that_names_another_workspaces_bytes_gets_none_of_its_worker(two):
    # An interactive call's arguments are fetched by the worker: for its container's workspace only.
    async with open_session(INTERNAL) as session:
        blobs = CachedBlobs(StoreClient(session, lambda: two.cache_url))
        for _ in range(2):
            assert await blobs.get(DIGEST, OWNER) == CONTENT
            with pytest.raises(NotFoundError):
                await blobs.get(DIGEST, STRANGER)
        result = await blobs.put(b"a result", STRANGER)
        assert await blobs.get(result, STRANGER) == b"a result"
    assert await status_of(two.web, "GET", place(result), OTHER) == 200
    assert await status_of(two.web, "GET", place(result), "gp_local") == 404


@pytest.mark.attempt(control="the owner saves it")
async def test_another_workspaces_bytes_are_no_parts_of_an_output(two):
    for workspace, expected in (("default", 201), ("other", 422)):
        asker = {
            "Glowplug-Inside-Workspace": workspace,
            "Glowplug-Inside-Container": "ctr_1",
            "Glowplug-Inside-Deployment": "dep_1",
            "Glowplug-Inside-Parent": "inv_00000000000000000000000001",
        }
        sent = {"json": {"name": "out", "parts": [DIGEST]}, "headers": asker}
        said = await two.web.json("POST", "/api/v1/outputs", expected, token=INTERNAL, **sent)
        assert (CONTENT.decode() in json.dumps(said)) is False


@pytest.mark.attempt(control="the services read it without a workspace's name")
async def test_the_platforms_own_bytes_are_nobodys(two):
    manifest = two.store.add_blob(b"a manifest of somebody's image")
    assert two.store.blob(manifest)
    for token in ("gp_local", OTHER):
        assert await status_of(two.web, "GET", place(manifest), token) == 404
    chunk = frame_of(b"a chunk of somebody's image")
    two.store.put_chunks([chunk])
    assert await status_of(two.web, "GET", place(chunk.digest), OTHER) == 404


@pytest.mark.attempt(control="a name that is one is taken")
@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "é", "x" * 97, "other/../default"])
async def test_no_name_of_a_workspace_leads_elsewhere(two, name):
    headers = {"Authorization": f"Bearer {INTERNAL}", "X-Workspace": name}
    async with aiohttp.ClientSession(headers=headers) as session:
        for method in ("GET", "PUT", "HEAD"):
            sent = {"data": CONTENT} if method == "PUT" else {}
            async with session.request(method, f"{two.cache_url}/blobs/{DIGEST}", **sent) as said:
                assert said.status == 422, name


async def test_a_lease_is_its_owners_alone(tmp_path):
    store, now = a_store(tmp_path), 1_000_000.0
    for owner in (OWNER, STRANGER):
        with store.open_upload(DIGEST, owner=owner) as upload:
            upload.write(CONTENT)
            upload.finish(now)
    assert store.extend(DIGEST, now + 10_000, OWNER)
    assert store.keep(DIGEST) is False
    assert store.sweep(now + 5_000) == 1
    assert store.blob_size(DIGEST, OWNER) == len(CONTENT)
    assert store.blob_size(DIGEST, STRANGER) is None
    assert store.extend(DIGEST, now + 10_000, STRANGER) is False
