"""Versions: given out, moved to, called, deleted."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from glowplug_contracts.messages.deployment import (
    AutoscalerSpec,
    FieldSpec,
    FunctionKind,
    ImageSpec,
    ImageStep,
    SourceRef,
)
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.streams import DEPLOYMENTS
from glowplug_gateway import service

from tests.support.eventually import eventually
from tests.support.gateway_world import SOURCE, Web, ok, open_gateway_service


@pytest.fixture
def naming(world):
    """Work that answers which deployment it ran in."""

    async def name(request, one):
        return ok(request.deployment_id, one.index)

    world.work = name
    return world


async def test_each_deploy_gives_a_version_and_latest_moves(gateway, naming, bus):
    first = await gateway.deployed()
    (line,) = await gateway.deploy()
    second = line["deployment"]["deployment_id"]
    assert (line["deployment"]["version"], line["deployment"]["latest"]) == (2, True)
    assert line["url"] == f"{gateway.url}/endpoint/greet"
    for path, expected in (
        ("/endpoint/greet", second),
        ("/endpoint/greet/latest", second),
        ("/endpoint/greet/v2", second),
        ("/endpoint/greet/v1", first),
    ):
        assert await gateway.json("POST", path) == expected
    for path in ("/endpoint/greet/v3", "/endpoint/greet/v0", "/endpoint/greet/x"):
        await gateway.json("POST", path, status=404)
    entries = await bus.bucket(DEPLOYMENTS).entries("default")
    flags = {entry.value.deployment_id: entry.value.latest for entry in entries}
    assert flags == {first: False, second: True}


async def test_deploys_at_once_get_different_versions(gateway, naming):
    found = await asyncio.gather(*[gateway.deploy() for _ in range(5)])
    assert sorted(lines[-1]["deployment"]["version"] for lines in found) == [1, 2, 3, 4, 5]
    listed = await gateway.json("GET", "/api/v1/deployments?all=1")
    alive = [one for one in listed["deployments"] if one["latest"]]
    assert len(alive) == 1


async def test_a_version_that_lost_its_flag_gets_it_back(
    gateway, bus, monkeypatch, nats_server, tmp_path
):
    deployment = await gateway.deployed()
    bucket = bus.bucket(DEPLOYMENTS)
    key = f"default.{deployment}"
    entry = await bucket.get(key)
    # As a gateway leaves it that dies between the name's index and the flag.
    await bucket.put(key, msgspec.structs.replace(entry.value, latest=False))
    monkeypatch.setattr(service, "MEND_S", 0.05)

    async def mended():
        return (await bucket.get(key)).value.latest

    async with open_gateway_service(nats_server.url, tmp_path, "gateway-2"):
        await eventually(mended)


async def test_deleting_a_version_falls_back_and_deleting_a_name_ends_all(gateway, naming):
    first, second = await gateway.deployed(), await gateway.deployed()
    assert await gateway.json("DELETE", f"/api/v1/deployments/{second}") == {"deleted": [second]}
    assert await gateway.json("POST", "/endpoint/greet") == first
    await gateway.json("POST", "/endpoint/greet/v2", status=404)
    await gateway.call(second, status=404)
    await gateway.json("DELETE", "/api/v1/deployments/greet")
    await gateway.json("POST", "/endpoint/greet", status=404)
    await gateway.json("DELETE", "/api/v1/deployments/greet", status=404)
    third = (await gateway.deploy())[-1]["deployment"]
    assert third["version"] == 1
    assert await gateway.json("POST", "/endpoint/greet") == third["deployment_id"]


async def test_other_gateways_serve_it_at_once(gateway, naming, nats_server, tmp_path):
    async with open_gateway_service(nats_server.url, tmp_path, "gateway-2") as url:
        other = Web(url, gateway.session)
        for _ in range(3):
            deployment = await gateway.deployed()
            # By id a miss asks the bucket; by name the watch brings the new latest.
            assert json.loads((await other.call(deployment))[1]) == deployment
            await eventually(lambda: _answers(other, deployment))  # noqa: B023


async def _answers(web, deployment: str) -> bool:
    return await web.json("POST", "/endpoint/greet") == deployment


async def test_ephemeral_versions_are_reused_and_have_no_name(gateway, naming):
    spec = {"kind": FunctionKind.FUNCTION}
    (first,) = await gateway.deploy(ephemeral=True, **spec)
    (again,) = await gateway.deploy(ephemeral=True, **spec)
    (other,) = await gateway.deploy(ephemeral=True, timeout_s=5.0, **spec)
    ids = [line["deployment"]["deployment_id"] for line in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    await gateway.json("POST", "/function/greet", status=404)
    assert json.loads((await gateway.call(ids[0]))[1]) == ids[0]
    assert (await gateway.json("GET", "/api/v1/deployments"))["deployments"] == []


async def test_the_image_is_made_first_and_told_line_by_line(gateway, world):
    image = ImageSpec(python_version="3.12", steps=(ImageStep(kind="pip", args=("x",)),))
    lines = await gateway.deploy(image=image)
    assert [(line["event"], line.get("kind")) for line in lines] == [
        ("image", "step"),
        ("image", "output"),
        ("deployed", None),
    ]
    assert lines[-1]["deployment"]["image_digest"] == "a" * 64
    assert lines[-1]["deployment"]["base_python"] == "3.12"
    assert world.images == [image]


async def test_a_failed_build_deploys_nothing(gateway, world):
    world.image_error = RemoteError(
        code="image.build_failed", type="ImageBuildError", message="no x", traceback="pip said so"
    )
    lines = await gateway.deploy(image=ImageSpec(steps=(ImageStep(kind="pip", args=("x",)),)))
    assert lines[-1]["event"] == "error"
    assert lines[-1]["error"]["code"] == "image.build_failed"
    assert lines[-1]["error"]["details"]["output"] == "pip said so"
    assert (await gateway.json("GET", "/api/v1/deployments"))["deployments"] == []


async def test_a_function_by_value_needs_its_own_python(gateway, world):
    pickled = world.store(b"a pickle")
    (line,) = await gateway.deploy(422, source=SourceRef(pickled=pickled), python_version="3.9.2")
    assert line["error"]["code"] == "deployment.python_mismatch"
    await gateway.deploy(python_version="3.9.2")  # from a file any Python will do


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"workers": 0}, "workers"),
        ({"priority": 11}, "priority"),
        ({"autoscaler": AutoscalerSpec(min_containers=3)}, "autoscaler.min_containers"),
        ({"autoscaler": AutoscalerSpec(buffer_containers=1)}, "autoscaler.buffer_containers"),
        ({"source": SourceRef()}, "source"),
        ({"image": ImageSpec(base="d" * 513)}, "image.base"),
        ({"image": ImageSpec(credentials="login")}, "image.credentials"),
        ({"inputs": {"a": FieldSpec(type="complex")}}, "inputs.a"),
    ],
)
async def test_impossible_specs_are_422_with_the_field(gateway, spec, field):
    (line,) = await gateway.deploy(422, **spec)
    assert field in line["error"]["details"]["fields"]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "-a", "a" * 64, "a>"])
async def test_names_follow_the_grammar(gateway, name):
    (line,) = await gateway.deploy(422, name=name)
    assert line["error"]["code"] == "request.bad_name"


async def test_a_source_that_was_not_uploaded_is_said(gateway, world):
    world.blobs.clear()
    (line,) = await gateway.deploy(422)
    assert line["error"]["code"] == "request.bad_digest"
    world.store(SOURCE)
    await gateway.deploy()


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_what_a_version_is_made_of_is_kept_for_ever(gateway, world, ephemeral):
    pickled, on_start, file = (world.store(data) for data in (b"p", b"o", b"f"))
    stranger = world.store(b"s")
    await gateway.json("PUT", f"/api/v1/blobs/{stranger}", data=b"s")
    source = SourceRef(blob=world.store(SOURCE), pickled=pickled, on_start_pickled=on_start)
    image = ImageSpec(steps=(ImageStep(kind="file", args=("f",), blob=file),))
    await gateway.deploy(ephemeral=ephemeral, source=source, image=image)
    kept = {digest for digest, keep in world.kept.items() if keep == "forever"}
    assert kept == {source.blob, pickled, on_start, file}


async def test_show_tells_what_is_going_on(gateway, world):
    deployment = await gateway.deployed(app="shop")
    await world.report(deployment, queued=4, in_flight=2)

    async def told():
        shown = await gateway.json("GET", "/api/v1/deployments/greet")
        return (shown["queued"], shown["in_flight"]) == (4, 2)

    await eventually(told)
    shown = await gateway.json("GET", f"/api/v1/deployments/{deployment}")
    assert (shown["name"], shown["app"], shown["target"], shown["containers"]) == (
        "greet",
        "shop",
        0,
        [],
    )
    listed = await gateway.json("GET", "/api/v1/deployments?app=shop&name=greet")
    assert [one["deployment_id"] for one in listed["deployments"]] == [deployment]
    assert (await gateway.json("GET", "/api/v1/deployments?app=x"))["deployments"] == []
