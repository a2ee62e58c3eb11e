"""The gRPC door, through a client that knows nothing of ours: it asks reflection, or reads the .proto."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import zipfile
from pathlib import Path

import glowplug_gateway
import grpc
import msgspec
import pytest
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.invocation import Format, InputOutcome, Payload, RemoteError, State
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.gateway.test_tasks import end
from tests.support.eventually import eventually
from tests.support.gateway_world import TOKEN, Web, a_spec, open_gateway_service
from tests.support.grpc_client import SERVICE, a_client


@pytest.fixture
def grpc_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
async def channel(world, nats_server, tmp_path, grpc_port):
    async with (
        open_gateway_service(nats_server.url, tmp_path, grpc_port=grpc_port) as url,
        grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        channel.gateway_url = url
        async with asyncio.timeout(30):
            await channel.channel_ready()
        yield channel


@pytest.fixture
async def client(channel):
    return await a_client(channel, TOKEN)


@pytest.fixture
async def web(channel):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        yield Web(channel.gateway_url, session)


async def test_says_that_it_is_well_and_what_it_serves_without_a_token(channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    names = (await a_client(channel, TOKEN)).methods
    assert {"Deploy", "Invoke", "InvokeStream", "Put", "WaitTask", "StreamLogs"} <= set(names)


async def test_invokes_with_a_client_made_from_reflection(client, web) -> None:
    await web.deployed(name="greet")
    reply = await client("Invoke", deployment="greet", arguments_json=b'{"name": "Ada"}')
    assert reply.state == "succeeded"
    assert json.loads(reply.result_json) == {"args": [], "kwargs": {"name": "Ada"}}
    again = await client(
        "Invoke", deployment="greet", arguments_json=b'{"name": "Ada"}',
        invocation_id=reply.invocation_id,
    )  # fmt: skip
    assert again.invocation_id == reply.invocation_id


async def test_what_the_function_did_wrong_is_an_answer(client, web, world) -> None:
    error = RemoteError(code="function.failed", type="KeyError", message="'x'", traceback="line 1")

    async def fail(_request, _input):
        return InputOutcome(state=State.FAILED, error=error)

    world.work = fail
    await web.deployed(name="greet")
    reply = await client("Invoke", deployment="greet")
    assert (reply.state, reply.error.type, reply.error.traceback) == (
        "failed",
        "KeyError",
        "line 1",
    )


@pytest.mark.parametrize(
    ("method", "fields", "status", "code"),
    [
        ("Invoke", {"deployment": "nobody"}, "NOT_FOUND", "deployment.not_found"),
        ("Invoke", {"deployment": "greet", "arguments_json": b"[1]"}, "INVALID_ARGUMENT", "request.invalid"),
        ("Invoke", {"deployment": "greet", "invocation_id": "x"}, "INVALID_ARGUMENT", "request.bad_id"),
        ("InvokeStream", {"deployment": "greet"}, "INVALID_ARGUMENT", "request.invalid"),
        ("GetTask", {"task_id": "inv_00000000000000000000000000"}, "NOT_FOUND", "invocation.not_found"),
        ("Put", {"deployment": "greet", "options_json": b"{"}, "INVALID_ARGUMENT", "request.invalid"),
        ("Deploy", {"spec_json": b"{}"}, "INVALID_ARGUMENT", "request.invalid"),
        ("WaitTask", {"task_id": "x", "wait_s": 1e9}, "INVALID_ARGUMENT", "request.invalid"),
    ],
)  # fmt: skip
async def test_what_the_platform_refuses_is_a_status_with_its_code(
    client, web, method, fields, status, code
) -> None:
    await web.deployed(name="greet")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.ended(method, **fields)
    assert refused.value.code().name == status
    assert dict(refused.value.trailing_metadata())["glowplug-code"] == code


@pytest.mark.parametrize("token", ["", "gp_wrong"])
async def test_every_method_needs_a_token(channel, token) -> None:
    stranger = await a_client(channel, token)
    for name in stranger.methods:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stranger.ended(name)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


async def test_durable_work_is_put_waited_for_and_cancelled(client, web, bus) -> None:
    await web.deployed(name="queue", kind=FunctionKind.TASK_QUEUE)
    first, second = [
        (await client("Put", deployment="queue", arguments_json=b'{"n": 1}', idempotency_key="k"))
        .task_id
        for _ in range(2)
    ]  # fmt: skip
    assert first == second
    assert (await client("GetTask", task_id=first)).status == "PENDING"
    early = await client("WaitTask", task_id=first, wait_s=0.05)
    assert not early.ended
    waiting = asyncio.ensure_future(client("WaitTask", task_id=first, wait_s=20))
    result = Payload(format=Format.JSON, data=b'{"n": 2}')
    await end(bus, first, InputOutcome(state=State.SUCCEEDED, result=result))
    done = await waiting
    assert (done.ended, done.status, json.loads(done.result_json)) == (True, "COMPLETE", {"n": 2})
    other = (await client("Put", deployment="queue", options_json=b'{"priority": 5}')).task_id
    assert (await client("CancelTask", task_id=other)).status == "CANCELLED"


async def test_deploys_source_that_it_brings_along_and_lists_it(client, world) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("app.py", "def greet(): ...")
    spec = msgspec.json.encode(a_spec(name="brought"))
    events = [
        event async for event in client("Deploy", spec_json=spec, source_zip=zipped.getvalue())
    ]
    deployed = events[-1].deployed
    assert (deployed.name, deployed.version, deployed.latest) == ("brought", 1, True)
    assert zipped.getvalue() in world.blobs.values()
    assert (
        await client("GetDeployment", deployment="brought")
    ).deployment_id == deployed.deployment_id
    listed = (await client("ListDeployments", name="brought")).deployments
    assert [one.deployment_id for one in listed] == [deployed.deployment_id]
    assert json.loads(listed[0].spec_json)["name"] == "brought"


async def test_a_held_port_is_told_in_health_and_ends_nothing(
    world, nats_server, tmp_path, grpc_port
) -> None:
    import aiohttp

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", grpc_port))
        holder.listen()
        async with (
            open_gateway_service(nats_server.url, tmp_path, grpc_port=grpc_port) as url,
            aiohttp.ClientSession() as session,
        ):
            web = Web(url, session)

            async def told() -> bool:
                async with web("GET", "/api/v1/health") as answer:
                    return "not open" in (await answer.text())

            await eventually(told)
            await web.deployed(name="greet")


async def test_a_client_generated_from_the_proto_by_grpcio_tools(web, grpc_port, tmp_path) -> None:
    """As another program does it: protoc, then the generated stub, in a process of its own."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    import subprocess
    import sys

    proto = Path(glowplug_gateway.__file__).parent / "rpc" / "glowplug_v1.proto"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{proto.parent}",
        f"--python_out={tmp_path}",
    ]
    command += [f"--grpc_python_out={tmp_path}", str(proto)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    await web.deployed(name="greet")
    program = (
        "import sys, grpc, glowplug_v1_pb2 as pb, glowplug_v1_pb2_grpc as rpc\n"
        "stub = rpc.GlowplugStub(grpc.insecure_channel(sys.argv[1]))\n"
        "told = (('authorization', 'Bearer ' + sys.argv[2]),)\n"
        "asked = pb.InvokeRequest(deployment='greet', arguments_json=b'{\"n\": 1}')\n"
        "print(stub.Invoke(asked, metadata=told, timeout=20).state)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, f"127.0.0.1:{grpc_port}", TOKEN],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "succeeded", done.stderr


def test_the_committed_module_is_made_from_the_proto() -> None:
    """Every message and field of the .proto is in the generated module, and nothing else."""
    import re

    from glowplug_gateway.rpc import glowplug_v1_pb2 as pb

    text = (Path(glowplug_gateway.__file__).parent / "rpc" / "glowplug_v1.proto").read_text()
    text = re.sub(r"//.*", "", text)
    found = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(found)
    fields = [f"{f.name} = {f.number}" for m in found.message_type for f in m.field]
    assert fields == re.findall(r"(\w+ = \d+);", text)
    assert [m.name for m in found.message_type] == re.findall(r"^message (\w+)", text, re.MULTILINE)
    assert [m.name for m in found.service[0].method] == re.findall(r"rpc (\w+)", text)
