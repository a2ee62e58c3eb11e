"""Models over HTTP: records of one workspace, pulls that others do, tokens for imagecache alone."""

from __future__ import annotations

import os

import aiohttp
import msgspec
import pytest
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.inside import MODEL_TOKEN
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.model import ModelRecord, ModelVersion, PullState
from glowplug_contracts.streams import MODELS
from glowplug_imagecache.asking_gateways import Gateways
from glowplug_imagecache.models import rules

from tests.support.gateway_world import Web, open_gateway_service, open_world

NEW, OLD = Digest("a" * 64), Digest("b" * 64)
SOURCE = b"the source"


@pytest.fixture
async def world(bus, nats_server):
    async with open_world(nats_server.url) as world:
        world.store(SOURCE)
        yield world


@pytest.fixture
async def gateway(world, nats_server, tmp_path):
    (tmp_path / "key").write_text(os.urandom(32).hex())
    (tmp_path / "key").chmod(0o600)
    async with (
        open_gateway_service(
            nats_server.url, tmp_path, master_key_file=str(tmp_path / "key")
        ) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Web(url, session)


def a_version(tree: Digest) -> ModelVersion:
    return ModelVersion(
        tree=tree, source="hf:org/name@main", revision="c" * 40, files=2, bytes_total=10
    )


async def record_of(bus, name: str = "m") -> ModelRecord:
    entry = await bus.bucket(MODELS).get(f"default.{name}")
    return entry.value


async def put(bus, record: ModelRecord) -> None:
    await bus.bucket(MODELS).put(f"{record.workspace}.{record.name}", record)


async def pull(web: Web, status: int = 200, **more) -> dict:
    asked = {"name": "m", "source": "hf:org/name@main"} | more
    return await web.json("POST", "/models/pull", status, json=asked)


async def test_a_pull_is_asked_for_and_watched_until_it_has_ended(gateway, bus):
    asked = await pull(gateway)
    assert (asked["state"], asked["progress"], asked["digest"]) == ("pending", 0.0, "")
    record = rules.take(await record_of(bus), "ins_1")
    await put(bus, rules.tell(record, "downloading", 1, 4))
    shown = await gateway.json("GET", "/models/m/status")
    assert (shown["state"], shown["progress"], shown["text"]) == ("pulling", 25.0, "downloading")
    await put(bus, rules.finish(record, a_version(NEW)))
    shown = await gateway.json("GET", "/models/m/status")
    assert (shown["state"], shown["progress"], shown["digest"]) == ("ready", 100.0, NEW)
    assert shown["versions"][0]["revision"] == "c" * 40
    # Another pull takes the place of one that runs; what it fails of changes nothing.
    first = (await pull(gateway), await record_of(bus))[1]
    second = (await pull(gateway), await record_of(bus))[1]
    assert first.pull.pull_id != second.pull.pull_id
    error = RemoteError(code="model.no_room", type="E", message="full")
    await put(bus, rules.fail(rules.take(second, "ins_1"), error))
    shown = await gateway.json("GET", "/models/m/status")
    assert (shown["state"], shown["error"]["code"], shown["digest"]) == (
        "failed",
        "model.no_room",
        NEW,
    )
    listed = await gateway.json("GET", "/models")
    assert [one["name"] for one in listed["models"]] == ["m"]
    await gateway.json("DELETE", "/models/m")
    await gateway.json("GET", "/models/m/status", 404)
    await gateway.json("DELETE", "/models/m", 404)


async def test_what_another_workspace_has_is_not_there(gateway, bus):
    other = ModelRecord(workspace=WorkspaceId("other"), name="m", versions=(a_version(NEW),))
    await put(bus, other)
    assert (await gateway.json("GET", "/models"))["models"] == []
    await gateway.json("GET", "/models/m/status", 404)
    await gateway.json("DELETE", "/models/m", 404)
    lines = await gateway.deploy(404, models=[{"name": "m", "path": "/models/m"}])
    assert lines[-1]["error"]["code"] == "model.not_found"


async def test_what_can_be_no_pull_is_refused(gateway):
    wrong = [
        ({"name": "a/b"}, "request.bad_name"),
        ({"name": "pull"}, "request.bad_name"),
        ({"source": "hf:../etc"}, "model.bad_source"),
        ({"source": "hf:org/name@a..b"}, "model.bad_source"),
        ({"source": "hf:org/name@a b"}, "model.bad_source"),
        ({"source": "file:///etc/passwd"}, "model.bad_source"),
        ({"source": "hf:"}, "model.bad_source"),
        ({"source": "upload:x"}, "request.bad_digest"),
        ({"source": "volume:a b"}, "request.bad_name"),
        ({"source": "volume:data/../other"}, "model.refused"),
        ({"credentials": "none"}, "request.invalid"),
        ({"unknown": 1}, "request.invalid"),
    ]
    for asked, code in wrong:
        asking = {"name": "m", "source": "hf:org/name"} | asked
        async with gateway("POST", "/models/pull", json=asking) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (422, code), asked
    assert (await gateway.json("GET", "/models"))["models"] == []


async def test_a_version_is_deployed_with_models_that_are_there(gateway, bus):
    mount = {"name": "m", "path": "/models/m"}
    assert (await gateway.deploy(404, models=[mount]))[-1]["error"]["code"] == "model.not_found"
    await pull(gateway)
    assert (await gateway.deploy(409, models=[mount]))[-1]["error"]["code"] == "model.not_ready"
    await put(bus, rules.finish(await record_of(bus), a_version(NEW)))
    deployed = (await gateway.deploy(models=[mount]))[-1]["deployment"]
    assert deployed["spec"]["models"] == [mount]
    wrong = await gateway.deploy(404, models=[mount | {"version": OLD}])
    assert wrong[-1]["error"]["code"] == "model.not_found"
    for bad in ({"path": "/proc"}, {"path": "/app/x"}, {"path": "relative"}, {"version": "latest"}):
        assert (await gateway.deploy(422, models=[mount | bad]))[-1]["error"][
            "code"
        ] == "request.invalid"
    twice = [mount, mount | {"path": "/other"}]
    assert (await gateway.deploy(422, models=twice))[-1]["error"]["code"] == "request.invalid"
    volumes = [{"name": "v", "path": "/models"}]
    lines = await gateway.deploy(422, models=[mount], volumes=volumes)
    assert lines[-1]["error"]["code"] == "request.invalid"


async def test_a_token_is_opened_for_the_imagecache_that_pulls(gateway, bus):
    values = {"name": "hub", "values": {"HF_TOKEN": "hf_secret"}}
    await gateway.json("POST", "/api/v1/secrets", 201, json=values)
    shown = await pull(gateway, credentials="hub")
    assert "hf_secret" not in msgspec.json.encode(shown).decode()
    record = await record_of(bus)
    path = MODEL_TOKEN.format(workspace="default", model="m", pull=record.pull.pull_id)
    await gateway.json("GET", path, 404, token="internal")  # nobody does it yet
    taken = rules.take(record, "ins_1")
    await put(bus, taken)
    headers = {"Authorization": "Bearer internal"}
    async with aiohttp.ClientSession(headers=headers) as session:
        gateways = Gateways(session, lambda: [gateway.url])
        assert await gateways.model_token(taken) == "hf_secret"
    async with gateway("GET", path) as answer:  # a user's token is no key to it
        assert answer.status in (401, 403)
    other = MODEL_TOKEN.format(workspace="other", model="m", pull=record.pull.pull_id)
    await gateway.json("GET", other, 404, token="internal")
    await put(bus, rules.finish(taken, a_version(NEW)))
    await gateway.json("GET", path, 404, token="internal")
    assert (await record_of(bus)).pull is None
    assert PullState.PULLING is taken.pull.state
