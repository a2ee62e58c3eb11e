"""The gateway's side of the runner's door: who may say that a container asks, and what it may ask then."""

from __future__ import annotations

import pytest
from glowplug_contracts.inside import ALLOWED

from tests.support.gateway_world import TOKEN

INTERNAL = "internal"


def who(deployment: str = "dep_1", workspace: str = "default") -> dict[str, str]:
    return {
        "Glowplug-Inside-Workspace": workspace,
        "Glowplug-Inside-Container": "ctr_1",
        "Glowplug-Inside-Deployment": deployment,
    }


async def test_every_allowed_route_is_one_of_the_gateways(gateway):
    document = await gateway.json("GET", "/openapi.json")
    for method, path in ALLOWED:
        assert method.lower() in document["paths"][path]


async def test_a_container_asks_with_the_internal_token(gateway):
    deployment = await gateway.deployed()
    path = f"/api/v1/deployments/{deployment}"
    shown = await gateway.json("GET", path, token=INTERNAL, headers=who())
    assert shown["deployment_id"] == deployment


async def test_another_workspace_sees_nothing_of_it(gateway):
    deployment = await gateway.deployed()
    path = f"/api/v1/deployments/{deployment}"
    await gateway.json("GET", path, 404, token=INTERNAL, headers=who(workspace="other"))


async def test_the_internal_token_without_a_container_is_nobody(gateway):
    await gateway.json("GET", "/api/v1/deployments/x", 401, token=INTERNAL)


async def test_a_persons_token_cannot_speak_for_a_container(gateway):
    deployment = await gateway.deployed()
    path = f"/api/v1/deployments/{deployment}"
    # The headers are not read at all: this is the person, in the person's workspace.
    shown = await gateway.json("GET", path, token=TOKEN, headers=who(workspace="other"))
    assert shown["workspace"] == "default"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/deployments"),
        ("DELETE", "/api/v1/deployments/greet"),
        ("GET", "/api/v1/whoami"),
        ("GET", "/api/v1/logs"),
        ("GET", "/api/v1/workers"),
        ("POST", "/api/v1/sandboxes"),
    ],
)
async def test_a_container_may_ask_for_the_list_only(gateway, method, path):
    refused = await gateway.json(method, path, 403, token=INTERNAL, headers=who())
    assert refused["error"]["code"] == "auth.forbidden"


async def test_only_code_that_runs_undeployed_deploys_and_only_its_own_source(gateway, world):
    named = await gateway.deployed()
    own = (await gateway.deploy(ephemeral=True))[-1]["deployment"]
    other = world.store(b"another source")
    body = {
        "name": "sibling",
        "kind": "function",
        "source": {"blob": own["spec"]["source"]["blob"], "handler": "app:sibling"},
    }
    path = "/api/v1/deployments?ephemeral=1"

    async def tried(status: int, asker: str, value: dict, to: str = path) -> None:
        options = {"token": INTERNAL, "headers": who(asker), "json": value}
        async with gateway("POST", to, **options) as response:
            assert response.status == status, await response.text()

    asker = own["deployment_id"]
    await tried(200, asker, body)
    await tried(403, asker, body, "/api/v1/deployments")
    await tried(403, named, body)
    await tried(403, asker, body | {"source": {"blob": other, "handler": "app:sibling"}})
    await tried(403, asker, body | {"source": {"pickled": other}})


async def test_errors_and_items_come_as_json_for_who_asks_so(gateway, world):
    from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, State

    async def fails(_request, one):
        error = RemoteError(code="function.failed", type="E", message="no", pickled=b"\x00\x01")
        return InputOutcome(index=one.index, state=State.FAILED, error=error)

    deployment = await gateway.deployed()
    world.work = fails
    path = f"/api/v1/deployments/{deployment}/call"
    headers = {"Accept": "application/json", "Glowplug-Format": "json"}
    async with gateway("POST", path, data=b'{"args":[],"kwargs":{}}', headers=headers) as response:
        assert response.headers["Glowplug-State"] == "failed"
        error = await response.json()
    assert (error["code"], error["pickled"]) == ("function.failed", "AAE=")
