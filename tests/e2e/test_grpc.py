"""gRPC of a platform as `up` starts it: call, stream, put and read logs with a client made from reflection."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from tests.support.eventually import eventually_sync
from tests.support.grpc_client import a_client


@pytest.fixture(scope="module")
def address(platform) -> str:
    """Where health says that the door is; it opens a moment after the platform is ready."""
    platform.cli("deploy", "basics.py")

    def told() -> str:
        parts = platform.http("GET", "/api/v1/health").json()["parts"]
        return parts["gateway"]["instances"][0]["notes"].get("grpc", "")

    return f"127.0.0.1:{eventually_sync(told)}"


def talk(address, platform, conversation):
    async def run():
        async with grpc.aio.insecure_channel(address) as channel:
            return await conversation(await a_client(channel, platform.token))

    return asyncio.run(run())


def test_invoke_and_stream(address, platform) -> None:
    async def conversation(client):
        reply = await client("Invoke", deployment="greet", arguments_json=b'{"name": "Ada"}')
        items = await client.ended(
            "InvokeStream", deployment="ticks", arguments_json=b'{"count": 3}'
        )
        return reply, items

    reply, items = talk(address, platform, conversation)
    assert (reply.state, json.loads(reply.result_json)) == ("succeeded", {"greeting": "hello Ada"})
    assert [json.loads(one.item_json) for one in items] == [{"tick": n} for n in range(3)]


def test_an_exception_is_told_with_its_traceback(address, platform) -> None:
    async def conversation(client):
        return await client("Invoke", deployment="broken")

    reply = talk(address, platform, conversation)
    assert reply.state == "failed"
    assert reply.error.type
    assert "basics.py" in reply.error.traceback


def test_put_wait_and_follow_the_logs(address, platform) -> None:
    async def conversation(client):
        task = (await client("Put", deployment="add", arguments_json=b'{"a": 20, "b": 22}')).task_id
        done = await client("WaitTask", task_id=task, wait_s=60)
        lines = client("StreamLogs", deployments=["talks"], follow=True)
        spoken = asyncio.ensure_future(_first(lines))
        for _ in range(100):
            await client("Invoke", deployment="talks", arguments_json=b'{"name": "Ada"}')
            if spoken.done():
                break
        return done, await spoken

    done, line = talk(address, platform, conversation)
    assert (done.status, done.ended) == ("COMPLETE", True)
    assert json.loads(done.result_json) == 42
    assert line.name == "talks"


async def _first(lines):
    async for line in lines:
        return line
    return None
