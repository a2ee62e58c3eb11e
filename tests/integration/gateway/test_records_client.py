"""The SDK and the command line over records and dead letters of a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import msgspec
import pytest
from glowplug import DeadLetters, Task
from glowplug.client.session import close_session
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.invocation import State

from tests.support.builders_records import a_record, ended, read, record_at, task_id, write
from tests.support.eventually import eventually
from tests.support.gateway_world import TOKEN


@pytest.fixture
def client(gateway, monkeypatch, tmp_path):
    """Point the SDK of this process, and commands, at the gateway."""
    monkeypatch.setenv("GLOWPLUG_URL", gateway.url)
    monkeypatch.setenv("GLOWPLUG_TOKEN", TOKEN)
    monkeypatch.setenv("GLOWPLUG_QUIET", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    close_session()


async def run(*words: str, code: int = 0) -> str:
    """Run the command line; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "glowplug.cli.main", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    return out.decode()


async def numbers(letters: DeadLetters) -> list[str]:
    return [one.task_id for one in await asyncio.to_thread(list, letters)]


@pytest.fixture
async def letters(gateway, bus, client):
    await gateway.deployed(name="pages", kind=FunctionKind.TASK_QUEUE, app="books")
    for number in range(1, 6):
        state = State.TIMED_OUT if number == 5 else State.FAILED
        await write(bus, a_record(number, state, tags={"n": str(number)}))

    async def are_there():
        return len(await numbers(DeadLetters())) == 5

    await eventually(are_there)


async def test_letters_from_python(letters, bus):
    assert await numbers(DeadLetters("pages", state="timeout")) == [task_id(5)]
    assert await numbers(DeadLetters(tag="n=2", error_type="ValueError")) == [task_id(2)]
    assert await numbers(DeadLetters(app="nothing")) == []
    (letter,) = await asyncio.to_thread(list, DeadLetters(tag="n=2"))
    assert (letter.status, letter.name, letter.error_type) == ("ERROR", "pages", "ValueError")
    shown = await letter.show.aio()
    assert shown["arguments"]["value"]["kwargs"] == {"n": 2}
    task = await letter.replay.aio()
    assert isinstance(task, Task)
    assert (await read(bus, task.task_id)).replay_of == task_id(2)
    assert await letter.replay.aio() == task
    again = await DeadLetters(state=["failed"]).replay.aio()
    assert len(again) == 4
    assert await numbers(DeadLetters()) == []
    assert len(await numbers(DeadLetters(replayed=True))) == 5
    assert await DeadLetters(replayed=None).purge.aio() == 5
    assert await numbers(DeadLetters(replayed=None)) == []


async def test_letters_from_the_command_line(letters, bus):
    assert task_id(5) in await run("dlq", "list", "--queue", "pages")
    found = json.loads(await run("dlq", "list", "--state", "timeout", "--json"))
    assert [one["task_id"] for one in found["dead_letters"]] == [task_id(5)]
    shown = await run("dlq", "show", task_id(1))
    assert "no such page" in shown
    assert "Traceback" in shown
    await run("dlq", "replay", code=2)
    await run("dlq", "purge", task_id(1), "--all", code=2)
    assert "replayed as" in await run("dlq", "replay", task_id(1))
    done = json.loads(await run("dlq", "replay", "--state", "timeout", "--json"))
    assert [one["replay_of"] for one in done["replayed"]] == [task_id(5)]
    assert "1 removed" in await run("dlq", "purge", "--tag", "n=3")
    assert "2 replayed" in await run("dlq", "replay", "--all")
    assert "no dead letters" in await run("dlq", "list")


async def test_tasks_from_the_command_line(letters, bus):
    found = json.loads(await run("task", "list", "--queue", "pages", "--json", "--limit", "2"))
    assert [one["task_id"] for one in found["tasks"]] == [task_id(5), task_id(4)]
    more = await run("task", "list", "--cursor", found["cursor"], "--tag", "n=1")
    assert task_id(1) in more
    shown = await run("task", "show", task_id(1))
    assert "attempt 1: failed" in shown
    await run("task", "list", "--since", "yesterday", code=2)
    assert "no invocations yet" in await run("task", "list", "--since", "10m")


async def test_following_a_task_ends_with_it(gateway, bus, client):
    record = a_record(1)
    sequence = await write(bus, record)
    following = asyncio.ensure_future(run("task", "follow", task_id(1), "--json"))
    told = asyncio.ensure_future(asyncio.to_thread(list, Task.from_id(task_id(1)).subscribe()))
    running = msgspec.structs.replace(record, state=State.RUNNING, attempt=1)
    sequence = await write(bus, running, sequence)
    await write(bus, ended(running, State.SUCCEEDED), sequence)
    lines = [json.loads(line) for line in (await following).splitlines()]
    assert (lines[-1]["status"], lines[-1]["result"]) == ("COMPLETE", 5)
    assert (await told)[-1]["status"] == "COMPLETE"
    info = await Task.from_id(task_id(1)).info.aio()
    assert [one["state"] for one in info["timeline"]] == ["succeeded"]


async def test_a_subscription_goes_on_when_the_gateway_is_another_one(
    world, bus, nats_server, tmp_path, monkeypatch
):
    from tests.support.gateway_world import open_gateway_service

    monkeypatch.setenv("GLOWPLUG_TOKEN", TOKEN)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    record = a_record(1)
    first = await write(bus, record)
    seen: list[str] = []

    def follow() -> None:
        seen.extend(one["state"] for one in _each(Task.from_id(task_id(1)).subscribe()))

    heard: list[str] = []

    def _each(changes):
        for one in changes:
            heard.append(one["state"])
            yield one

    async with open_gateway_service(nats_server.url, tmp_path, instance="gateway-1") as one:
        async with open_gateway_service(nats_server.url, tmp_path, instance="gateway-2") as two:
            monkeypatch.setenv("GLOWPLUG_URL", f"{two},{one}")
            told = asyncio.ensure_future(asyncio.to_thread(follow))
            await eventually(lambda: heard == ["pending"])
        # The one that told is gone; the other goes on after what was seen.
        running = msgspec.structs.replace(record, state=State.RUNNING, attempt=1)
        second = await write(bus, running, first)
        await eventually(lambda: heard[-1] == "running")
        await write(bus, ended(running, State.FAILED), second)
        await told
        close_session()
    assert seen == ["pending", "running", "failed"]
    assert await bus.last(record_at(task_id(1))) is not None
