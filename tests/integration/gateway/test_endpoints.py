"""What curl sees: JSON in and out, checks, limits, events."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from glowplug_contracts.messages.deployment import FieldSpec, FunctionKind
from glowplug_contracts.messages.invocation import Format, InputOutcome, Payload, RemoteError, State

from tests.support.eventually import eventually
from tests.support.gateway_world import ok, open_gateway_service


async def kwargs_back(_request, one):
    """Answer the keyword arguments, as an endpoint that echoes them."""
    return ok(json.loads(one.args.data)["kwargs"], one.index)


@pytest.fixture
def echoing(world):
    world.work = kwargs_back
    return world


def failing(world, code: str = "function.failed", state: State = State.FAILED):
    async def fail(_request, one):
        error = RemoteError(
            code=code, type="LookupError", message="nothing here", traceback="File x, line 1"
        )
        return InputOutcome(index=one.index, state=state, error=error)

    world.work = fail


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        (
            "POST",
            "/endpoint/greet",
            {"name": "Ada", "n": [1, None]},
            {"name": "Ada", "n": [1, None]},
        ),
        ("POST", "/endpoint/greet", None, {}),
        ("GET", "/endpoint/greet?name=Ada%20L&n=2", None, {"name": "Ada L", "n": "2"}),
        ("POST", "/endpoint/greet?n=2", {"name": "Ada"}, {"name": "Ada", "n": "2"}),
    ],
)
async def test_body_and_query_become_keyword_arguments(
    gateway, echoing, method, path, body, expected
):
    await gateway.deployed()
    assert await gateway.json(method, path, json=body) == expected


@pytest.mark.parametrize("value", [0, False, "", [], None])
async def test_falsy_results_are_results(gateway, world, value):
    async def answer(_request, one):
        return ok(value, one.index)

    world.work = answer
    await gateway.deployed()
    assert await gateway.json("POST", "/endpoint/greet") == value


async def test_a_token_is_needed_unless_the_deployment_says_otherwise(gateway, echoing):
    await gateway.deployed(name="closed")
    await gateway.deployed(name="open", authorized=False)
    for token in (None, "gp_other", "gp_local2"):
        said = await gateway.json("POST", "/endpoint/closed", status=401, token=token)
        assert said["error"]["code"].startswith("auth.")
        # A stranger can't tell what exists from what does not.
        await gateway.json("POST", "/endpoint/nothing", status=401, token=token)
        assert await gateway.json("POST", "/endpoint/open", token=token) == {}
    await gateway.json("POST", "/endpoint/nothing", status=404)
    assert len(echoing.requests) == 3


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "name"),
        ({"name": 3}, "name"),
        ({"name": "Ada", "times": "many"}, "times"),
        ({"name": "Ada", "tims": 2}, "tims"),
        ({"name": "Ada", "tags": ["a", 2]}, "tags[1]"),
        ({"name": "Ada", "place": {"zip": True}}, "place.zip"),
    ],
)
async def test_bad_input_is_422_with_the_fields_path(gateway, echoing, body, path):
    await gateway.deployed(
        inputs={
            "name": FieldSpec(type="string"),
            "times": FieldSpec(type="integer", optional=True, default=1),
            "tags": FieldSpec(type="list", items=FieldSpec(type="string"), optional=True),
            "place": FieldSpec(
                type="object", fields={"zip": FieldSpec(type="string")}, optional=True
            ),
        }
    )
    said = await gateway.json("POST", "/endpoint/greet", status=422, json=body)
    assert list(said["error"]["details"]["fields"]) == [path]
    assert not echoing.requests


async def test_declared_inputs_get_defaults_and_types_from_the_query(gateway, echoing):
    await gateway.deployed(
        inputs={
            "times": FieldSpec(type="integer", optional=True, default=1),
            "loud": FieldSpec(type="boolean", optional=True, default=False),
            "name": FieldSpec(type="string", optional=True),
        }
    )
    assert await gateway.json("GET", "/endpoint/greet?times=3&loud=true") == {
        "times": 3,
        "loud": True,
        "name": None,
    }


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b'"x"', b"nonsense", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", b'{"a": NaN}'],
    ids=["cut", "list", "text", "no json", "too deep", "not a number"],
)
async def test_a_body_that_is_no_json_object_is_422(gateway, echoing, body):
    await gateway.deployed()
    said = await gateway.json("POST", "/endpoint/greet", status=422, data=body)
    assert said["error"]["code"] == "request.invalid"
    assert not echoing.requests


async def test_a_body_beyond_the_inline_bound_travels_as_a_blob(gateway, world):
    async def size(_request, one):
        kwargs = json.loads(world.blobs[one.args.blob])["kwargs"]
        return ok(len(kwargs["text"]), one.index)

    world.work = size
    await gateway.deployed()
    body = io.BytesIO(json.dumps({"text": "x" * 2_000_000}).encode())
    assert await gateway.json("POST", "/endpoint/greet", data=body) == 2_000_000


async def test_a_large_result_is_fetched_for_the_caller(gateway, world):
    digest = world.store(json.dumps("y" * 400_000).encode())

    async def large(_request, one):
        result = Payload(format=Format.JSON, blob=digest, size=400_002)
        return InputOutcome(index=one.index, state=State.SUCCEEDED, result=result)

    world.work = large
    await gateway.deployed()
    assert await gateway.json("POST", "/endpoint/greet") == "y" * 400_000


async def test_an_exception_is_500_with_type_message_and_id_and_no_stack(gateway, world):
    failing(world)
    await gateway.deployed()
    async with gateway("POST", "/endpoint/greet") as response:
        body = await response.text()
        assert response.status == 500
        assert response.headers["Glowplug-Invocation-Id"].startswith("inv_")
    error = json.loads(body)["error"]
    assert (error["type"], error["message"]) == ("LookupError", "nothing here")
    assert error["id"] == response.headers["Glowplug-Invocation-Id"]
    assert "File x" not in body


async def test_errors_can_be_kept_from_callers(world, nats_server, tmp_path, gateway):
    failing(world)
    await gateway.deployed()
    async with open_gateway_service(
        nats_server.url, tmp_path, "gateway-2", errors_shown=False
    ) as url:
        gateway.url = url
        said = await gateway.json("POST", "/endpoint/greet", status=500)
    assert set(said["error"]) == {"id", "code"}


async def test_a_timeout_is_504(gateway, world):
    failing(world, "function.timeout", State.TIMED_OUT)
    await gateway.deployed()
    said = await gateway.json("POST", "/endpoint/greet", status=504)
    assert said["error"]["code"] == "function.timeout"


async def test_beyond_max_pending_is_429_with_retry_after(gateway, world):
    release = asyncio.Event()

    async def wait(_request, one):
        await release.wait()
        return ok(None, one.index)

    world.work = wait
    await gateway.deployed(max_pending=2)
    waiting = [asyncio.ensure_future(gateway.json("POST", "/endpoint/greet")) for _ in range(2)]
    await eventually(lambda: len(world.requests) == 2)
    async with gateway("POST", "/endpoint/greet") as response:
        said = await response.json()
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
    assert said["error"]["code"] == "invocation.queue_full"
    release.set()
    await asyncio.gather(*waiting)
    await gateway.json("POST", "/endpoint/greet")


async def test_what_others_have_pending_counts_too(gateway, world):
    deployment = await gateway.deployed(max_pending=2)

    async def refused():
        # Said again and again, as a dispatcher does: a report that comes while a call of ours is in
        # hand counts that call among the two.
        await world.report(deployment, queued=2)
        await world.bus.flush()  # the broker has it, and has passed it on, before the next call
        async with gateway("POST", "/endpoint/greet") as response:
            return response.status == 429

    await eventually(refused)
    await world.report(deployment, queued=0)
    await eventually(lambda: _status(gateway, 200))


async def _status(gateway, wanted: int) -> bool:
    async with gateway("POST", "/endpoint/greet") as response:
        return response.status == wanted


async def test_a_generator_streams_as_server_sent_events(gateway, world):
    async def count(request, one):
        for number in range(3):
            await world.frame(request, number, {"tick": number})
        return InputOutcome(index=one.index, state=State.SUCCEEDED)

    world.work = count
    await gateway.deployed(is_generator=True)
    async with gateway("GET", "/endpoint/greet") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        text = await response.text()
    assert text == (
        'data: {"tick": 0}\n\ndata: {"tick": 1}\n\ndata: {"tick": 2}\n\nevent: end\ndata: {}\n\n'
    )


async def test_a_generator_that_fails_at_once_is_500_and_later_an_event(gateway, world):
    failing(world)
    await gateway.deployed(is_generator=True)
    await gateway.json("GET", "/endpoint/greet", status=500)
    fail = world.work

    async def late(request, one):
        await world.frame(request, 0, 0)
        return await fail(request, one)

    world.work = late
    async with gateway("GET", "/endpoint/greet") as response:
        assert response.status == 200
        text = await response.text()
    assert text.startswith("data: 0\n\nevent: error\ndata: ")
    assert json.loads(text.split("data: ")[2])["type"] == "LookupError"


async def test_a_reader_that_leaves_a_stream_cancels_it(gateway, world):
    leave = asyncio.Event()

    async def endless(request, one):
        await world.frame(request, 0, 0)
        await leave.wait()
        return InputOutcome(index=one.index, state=State.SUCCEEDED)

    world.work = endless
    await gateway.deployed(is_generator=True)
    async with gateway("GET", "/endpoint/greet") as response:
        await response.content.readline()
    await eventually(lambda: world.cancelled)
    leave.set()


async def test_other_kinds_are_named_with_their_door(gateway, world):
    await gateway.deployed(name="queue", kind=FunctionKind.TASK_QUEUE)
    said = await gateway.json("POST", "/endpoint/queue", status=404)
    assert "/taskqueue/queue" in said["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/api/v1/deployments//call", 404),
        ("PUT", "/api/v1/deployments", 405),
        ("POST", "/endpoint/a%2Fb", 422),
        ("POST", "/endpoint/greet/v1/more", 404),
    ],
)
async def test_what_is_not_there_is_said_in_the_common_form(gateway, method, path, status):
    said = await gateway.json(method, path, status=status)
    assert said["error"]["code"]
