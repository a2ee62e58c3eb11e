"""Secrets over HTTP: shown without values, required at deploy, opened for a container's worker only."""

from __future__ import annotations

import os

import aiohttp
import msgspec
import pytest
from glowplug_contracts.inside import BUILD_SECRET, BUILD_SECRETS, PULL_CREDENTIALS
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep, SecretRef
from glowplug_contracts.messages.http import SigningSecret
from glowplug_contracts.streams import SECRETS, SIGNING, WORKSPACE_KEYS

from tests.support.gateway_world import Web, open_gateway_service, open_world

CANARY = "canary-7f3a9"
SOURCE = b"the source"
ENVIRONMENT = "/api/v1/container/environment"


@pytest.fixture
async def world(bus, nats_server):
    async with open_world(nats_server.url) as world:
        world.store(SOURCE)
        yield world


@pytest.fixture
async def key_file(tmp_path):
    path = tmp_path / "master-key"
    path.write_text(os.urandom(32).hex())
    path.chmod(0o600)
    return path


@pytest.fixture
async def gateway(world, nats_server, tmp_path, key_file):
    async with (
        open_gateway_service(nats_server.url, tmp_path, master_key_file=str(key_file)) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Web(url, session)


def inside(deployment: str, workspace: str = "default") -> dict:
    headers = {
        "Glowplug-Inside-Workspace": workspace,
        "Glowplug-Inside-Container": "ctr_1",
        "Glowplug-Inside-Deployment": deployment,
    }
    return {"token": "internal", "headers": headers}


async def create(web: Web, name: str = "openai", status: int = 201, **values: str) -> dict:
    body = {"name": name, "values": values or {"KEY": CANARY}}
    return await web.json("POST", "/api/v1/secrets", status, json=body)


async def test_values_go_in_and_never_come_out(gateway, bus):
    await create(gateway, KEY=CANARY, OTHER="")
    shown = await gateway.json("GET", "/api/v1/secrets/openai")
    listed = await gateway.json("GET", "/api/v1/secrets")
    assert (shown["keys"], shown["version"]) == (["KEY", "OTHER"], 1)
    assert listed["secrets"] == [shown]
    stored = [await bus.bucket(bucket).entries() for bucket in (SECRETS, WORKSPACE_KEYS)]
    assert all(stored)
    assert CANARY.encode() not in msgspec.json.encode([shown, listed, stored])


async def test_a_secret_is_made_once_changed_and_forgotten(gateway):
    await create(gateway)
    assert (await create(gateway, status=409))["error"]["code"] == "secret.exists"
    changed = await gateway.json("PUT", "/api/v1/secrets/openai", json={"values": {"NEW": "x"}})
    assert (changed["keys"], changed["version"]) == (["NEW"], 2)
    await gateway.json("DELETE", "/api/v1/secrets/openai")
    await gateway.json("GET", "/api/v1/secrets/openai", 404)
    await gateway.json("PUT", "/api/v1/secrets/openai", 404, json={"values": {"NEW": "x"}})


async def test_a_request_that_can_not_be_read_is_not_repeated_in_the_answer(gateway):
    for body in ({"name": "x", "values": {"KEY": [CANARY]}}, {"values": CANARY}, {"values": {}}):
        refused = await gateway.json("POST", "/api/v1/secrets", 422, json=body)
        assert CANARY not in str(refused)


async def test_deploying_fails_with_a_sentence_where_a_secret_or_key_is_missing(gateway):
    async def refused(secrets: list) -> str:
        path = "/api/v1/deployments"
        spec = {
            "name": "f",
            "kind": "function",
            "source": {"blob": "0" * 64, "handler": "app:f"},
            "secrets": secrets,
        }
        return str(await gateway.json("POST", path, 422, json=spec))

    assert "glowplug secret create openai" in await refused([{"name": "openai"}])
    await create(gateway)
    found = await refused([{"name": "openai", "required_keys": ["KEY", "ORG"]}])
    assert "ORG" in found
    assert "glowplug secret rotate openai" in found
    assert CANARY not in found


async def test_a_worker_gets_what_its_containers_deployment_names_and_no_more(gateway):
    from glowplug_contracts.messages.deployment import SecretRef

    await create(gateway)
    await create(gateway, "other", OTHER="x")
    named = await gateway.deployed(secrets=(SecretRef(name="openai"),))
    none = await gateway.deployed(name="plain")
    opened = await gateway.json("GET", ENVIRONMENT, **inside(named))
    assert opened == {"environment": {"KEY": CANARY}}
    assert await gateway.json("GET", ENVIRONMENT, **inside(none)) == {"environment": {}}
    await gateway.json("GET", ENVIRONMENT, 404, **inside(named, workspace="other"))
    await gateway.json("GET", ENVIRONMENT, 403)  # a person's token opens none
    await gateway.json("GET", ENVIRONMENT, 401, token=None)
    await gateway.json("PUT", "/api/v1/secrets/openai", json={"values": {"KEY": "new"}})
    opened = await gateway.json("GET", ENVIRONMENT, **inside(named))
    assert opened == {"environment": {"KEY": "new"}}


async def test_another_master_key_opens_nothing_and_says_so(
    gateway, nats_server, tmp_path, key_file
):
    from glowplug_contracts.messages.deployment import SecretRef

    await create(gateway)
    named = await gateway.deployed(secrets=(SecretRef(name="openai"),))
    (tmp_path / "second").mkdir()
    key_file.write_text(os.urandom(32).hex())
    second = open_gateway_service(
        nats_server.url, tmp_path / "second", "gateway-2", master_key_file=str(key_file)
    )
    async with second as url, aiohttp.ClientSession() as session:
        other = Web(url, session)
        refused = await other.json("GET", ENVIRONMENT, 400, **inside(named))
        assert refused["error"]["code"] == "secret.unreadable"
        await create(other, "third", status=400)


async def test_without_a_master_key_secrets_are_refused_with_a_sentence(
    world, nats_server, tmp_path
):
    async with (
        open_gateway_service(nats_server.url, tmp_path) as url,
        aiohttp.ClientSession() as session,
    ):
        refused = await create(Web(url, session), status=422)
        assert refused["error"]["code"] == "secret.no_key"


# -- What callbacks are signed with ----------------------------------------------------------------


async def test_what_callbacks_are_signed_with_lies_sealed(gateway, bus):
    said = await gateway.json("GET", "/api/v1/callbacks/secret")
    held = (await bus.bucket(SIGNING).get("default")).value
    assert len(said["secret"]) == 64
    assert not held.secret
    assert said["secret"].encode() not in msgspec.json.encode(held)
    assert bytes.fromhex(said["secret"]) not in held.sealed
    assert await gateway.json("GET", "/api/v1/callbacks/secret") == said


async def test_one_from_before_there_was_a_master_key_is_sealed_and_stays(gateway, bus):
    await bus.bucket(SIGNING).create("default", SigningSecret(secret="a" * 64))
    assert (await gateway.json("GET", "/api/v1/callbacks/secret"))["secret"] == "a" * 64
    held = (await bus.bucket(SIGNING).get("default")).value
    assert held.sealed
    assert not held.secret


async def test_another_gateway_opens_it_and_one_without_the_key_does_not(
    gateway, nats_server, tmp_path, key_file
):
    said = await gateway.json("GET", "/api/v1/callbacks/secret")
    for number, (file, status) in enumerate(((str(key_file), 200), ("", 422))):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with (
            open_gateway_service(nats_server.url, directory, master_key_file=file) as url,
            aiohttp.ClientSession() as session,
        ):
            other = await Web(url, session).json("GET", "/api/v1/callbacks/secret", status=status)
            assert (other == said) == (status == 200)


async def test_a_registrys_credentials_are_opened_while_their_image_is_awaited_and_for_imagecache_only(
    gateway, world
):
    await create(gateway, "login", REGISTRY_USERNAME="me", REGISTRY_PASSWORD=CANARY)
    seen = []

    async def look(asked) -> None:
        path = PULL_CREDENTIALS.format(ask=asked.reply_to)
        seen.append((path, await gateway.json("GET", path, 200, token="internal")))
        seen.append(("people", await gateway.json("GET", path, 401)))
        other = PULL_CREDENTIALS.format(ask="bld_other")
        seen.append(("other", await gateway.json("GET", other, 404, token="internal")))

    world.on_build = look
    image = ImageSpec(base="registry.example/app:1", credentials="login")
    lines = await gateway.deploy(image=image)
    assert lines[-1]["event"] == "deployed"
    (path, opened), (_, people), (_, other) = seen
    assert opened == {"username": "me", "password": CANARY}
    assert CANARY not in str(people) + str(other) + str(lines)
    await gateway.json("GET", path, 404, token="internal")  # nobody waits any more


async def test_credentials_that_are_not_there_or_lack_a_part_are_refused_at_once(gateway):
    image = ImageSpec(base="registry.example/app:1", credentials="login")
    assert "glowplug secret create login" in str(await gateway.deploy(422, image=image))
    await create(gateway, "login", REGISTRY_USERNAME="me")
    assert "REGISTRY_PASSWORD" in str(await gateway.deploy(422, image=image))


async def test_secrets_of_a_builds_steps_are_opened_while_it_is_awaited_and_for_services_only(
    gateway, world
):
    for name in ("token", "other"):
        await create(gateway, name, TOKEN=CANARY)
    seen = {}

    async def look(asked) -> None:
        ask = asked.reply_to
        assert CANARY not in str(asked)
        for name, status, token in (
            ("token", 200, "internal"),
            ("token", 401, None),
            ("other", 404, "internal"),
        ):
            path = BUILD_SECRET.format(ask=ask, secret=name)
            who = {"token": token} if token else {}
            seen[name, status] = await gateway.json("GET", path, status, **who)
        path = BUILD_SECRETS.format(ask=ask)
        seen["stamps", ask] = await gateway.json("GET", path, 200, token="internal")

    world.on_build = look

    def image(command: str) -> ImageSpec:
        step = ImageStep(kind="run", args=(command,), secrets=(SecretRef(name="token"),))
        return ImageSpec(steps=(step,))

    lines = await gateway.deploy(image=image("first"))
    assert seen["token", 200] == {"environment": {"TOKEN": CANARY}}
    assert CANARY not in str([lines, seen["token", 401], seen["other", 404]])
    await gateway.deploy(image=image("second"))
    await gateway.json("PUT", "/api/v1/secrets/token", json={"values": {"TOKEN": CANARY}})
    await gateway.deploy(image=image("third"))
    # The values of the third are the first's, but who changed a secret need not have known.
    first, second, third = [told["stamps"] for key, told in seen.items() if key[0] == "stamps"]
    assert first == second != third
    ask = list(seen)[-1][1]
    await gateway.json("GET", BUILD_SECRET.format(ask=ask, secret="token"), 404, token="internal")


async def test_a_step_whose_secret_is_not_there_or_lacks_a_key_is_refused_at_once(gateway):
    need = SecretRef(name="token", required_keys=("TOKEN",))
    image = ImageSpec(steps=(ImageStep(kind="run", args=("true",), secrets=(need,)),))
    assert "glowplug secret create token" in str(await gateway.deploy(422, image=image))
    await create(gateway, "token", OTHER="x")
    assert "TOKEN" in str(await gateway.deploy(422, image=image))
