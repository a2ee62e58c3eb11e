"""The real runner in the real backends, run by the worker on a real broker."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import Digest, ImageDigest
from glowplug_contracts.messages.container import (
    CommitLayer,
    ContainerKind,
    ExecEvent,
    ExecInContainer,
    ExecReply,
    LayerCommitted,
)
from glowplug_contracts.messages.deployment import Resources, SourceRef
from glowplug_contracts.messages.invocation import Format, Payload, State
from glowplug_contracts.subjects import COMMIT, EXEC, EXEC_REPLY
from glowplug_worker.ports import LocalImage
from glowplug_worker.processes import start_ticks, tree
from glowplug_worker.runtime.choose import choose_backend

from tests.support.builders_worker import WORKER, a_request, open_worker
from tests.support.eventually import eventually

APP = """
import os, sys, time

def add(a, b=1):
    print("adding")
    return a + b

def count(n):
    for each in range(n):
        yield each

def fail():
    raise ValueError("no")

def die(code):
    print("last words")
    os._exit(code)

def spin():
    sum(range(10**14))

def eat(mib):
    held = bytearray(mib << 20)
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(60)

def tool():
    import subprocess
    return subprocess.run(["greet"], capture_output=True, text=True, check=True).stdout

def env(name):
    return os.environ.get(name)

def pid():
    return os.getpid()
"""
BAD = "import no_such_module\n"
SOURCE = Digest("5" * 64)


@pytest.fixture(params=["process", "bwrap"])
async def worker(request: Any, bus: Any, rest: Any, tmp_path: Path) -> AsyncIterator[Any]:
    source = tmp_path / "source"
    source.mkdir()
    (source / "app.py").write_text(APP)
    (source / "bad.py").write_text(BAD)
    try:
        backend = await choose_backend(request.param, tmp_path / "probe")
    except UnavailableError as error:
        pytest.skip(f"{request.param} does not work here: {error}")
    async with open_worker(bus, tmp_path / "worker", backend) as service:
        service.workshop.images.sources[SOURCE] = source
        yield service


def calling(handler: str, **spec: Any) -> dict[str, Any]:
    return {"source": SourceRef(blob=SOURCE, handler=handler), **spec}


def args(*values: Any) -> bytes:
    return pickle.dumps((values, {}))


def a_call(*values: Any, invocation_id: str = "inv_1", inputs: int = 1, **fields: Any) -> Any:
    request = a_request(invocation_id, inputs, data=args(*values), **fields)
    pickled = tuple(
        each.__class__(index=each.index, args=Payload(format=Format.PICKLE, data=each.args.data))
        for each in request.inputs
    )
    return request.__class__(
        **{name: getattr(request, name) for name in request.__struct_fields__} | {"inputs": pickled}
    )


async def test_calls_a_function_and_hears_what_it_prints(worker: Any, rest: Any) -> None:
    ready = await rest.bound(**calling("app:add"))
    assert {"pull_s", "boot_s", "import_s", "on_start_s"} <= set(ready.phases)
    await rest.run(a_call(1, 2))
    await eventually(lambda: rest.ended)
    (outcome,) = rest.outcomes
    assert outcome.state is State.SUCCEEDED, outcome.error
    assert pickle.loads(outcome.result.data) == 3
    lines = [line for segment in rest.logs for line in segment.lines]
    assert [(line.text, line.invocation_id) for line in lines] == [("adding\n", "inv_1")]
    containers = worker.workshop.directory / "containers"
    assert [each.name for each in containers.iterdir()] == ["ctr_1"]
    worker.supervisors["ctr_1"].stop(1.0, "idle")
    stopped = await rest.change("stopped")
    assert stopped.reason == "idle"
    await eventually(lambda: not worker.supervisors)
    assert list(containers.iterdir()) == []


async def test_user_code_starts_python_tools_of_its_image(
    worker: Any, rest: Any, tmp_path: Path
) -> None:
    layer, python = tmp_path / "layer", worker.workshop.pythons.find("").executable
    (layer / "bin").mkdir(parents=True)
    (layer / "site-packages").mkdir()
    (layer / "site-packages" / "greeting.py").write_text("def main():\n    print('hello')\n")
    # As installers write it: importing is up to the interpreter and its environment.
    (layer / "bin" / "greet").write_text(f"#!{python}\nfrom greeting import main\nmain()\n")
    (layer / "bin" / "greet").chmod(0o755)
    digest = ImageDigest("b" * 64)
    worker.workshop.images.layers[digest] = LocalImage(root=layer, env={"A": "image"})
    await rest.bound(**calling("app:tool", image_digest=digest))
    await rest.run(a_call())
    await eventually(lambda: rest.ended)
    (outcome,) = rest.outcomes
    assert outcome.state is State.SUCCEEDED, outcome.error
    assert pickle.loads(outcome.result.data) == "hello\n"


async def test_the_images_environment_reaches_the_function(
    worker: Any, rest: Any, tmp_path: Path
) -> None:
    (tmp_path / "layer").mkdir()
    digest = ImageDigest("b" * 64)
    image = LocalImage(root=tmp_path / "layer", env={"A": "image", "B": "image"})
    worker.workshop.images.layers[digest] = image
    await rest.bound(**calling("app:env", image_digest=digest, env={"B": "function"}))
    for number, (name, value) in enumerate([("A", "image"), ("B", "function")]):
        await rest.run(a_call(name, invocation_id=f"inv_{number}"))
        await eventually(lambda number=number: len(rest.ended) == number + 1)
        assert pickle.loads(rest.outcomes[-1].result.data) == value


async def test_maps_over_several_processes(worker: Any, rest: Any) -> None:
    await rest.bound(**calling("app:pid", processes=2))
    await eventually(lambda: rest.changes[-1].slots == 2)
    for number in range(4):
        await rest.run(a_call(invocation_id=f"inv_{number}"))
        await eventually(lambda number=number: len(rest.ended) + len(rest.refused) == number + 1)
    assert not rest.refused
    assert {each.state for each in rest.outcomes} == {State.SUCCEEDED}


async def test_streams_a_generator(worker: Any, rest: Any) -> None:
    await rest.bound(**calling("app:count", is_generator=True))
    await rest.run(a_call(10, stream=True))
    await eventually(lambda: rest.ended)
    assert [pickle.loads(each.item.data) for each in rest.frames] == list(range(10))
    assert rest.links[0].frames == 10


async def test_reports_the_users_exception(worker: Any, rest: Any) -> None:
    await rest.bound(**calling("app:fail"))
    await rest.run(a_call())
    await eventually(lambda: rest.ended)
    error = rest.outcomes[0].error
    assert (error.code, error.type, error.message) == ("function.failed", "ValueError", "no")
    assert "ValueError" in error.details["mro"]


async def test_an_import_that_fails_is_said_at_once(worker: Any, rest: Any) -> None:
    failed = await rest.bound("failed", **calling("bad:f"))
    assert failed.reason == "start_failed"
    assert failed.error.code == "function.start_failed"
    assert "no_such_module" in failed.error.message


async def test_a_process_that_exits_takes_its_call_with_it_and_says_how(
    worker: Any, rest: Any
) -> None:
    await rest.bound(**calling("app:die"))
    await rest.run(a_call(3))
    failed = await rest.change("failed")
    assert failed.reason == "crashed"
    assert failed.error.code == "function.crashed"
    assert failed.error.details["exit_code"] == 3
    assert "last words" in failed.error.details["last_lines"]
    await eventually(lambda: rest.lost)
    assert rest.lost[0].error == failed.error


async def test_one_of_several_processes_that_exits_ends_the_container_with_its_code(
    worker: Any, rest: Any
) -> None:
    await rest.bound(**calling("app:die", processes=3))
    await eventually(lambda: rest.changes[-1].slots == 3)
    await rest.run(a_call(5))
    failed = await rest.change("failed")
    assert failed.error.details["exit_code"] == 5


async def test_kill_9_of_a_runner_is_told_with_the_signal(worker: Any, rest: Any) -> None:
    await rest.bound(**calling("app:spin"))
    await rest.run(a_call())
    running = worker.supervisors["ctr_1"].running
    await eventually(lambda: worker.supervisors["ctr_1"].flights)
    os.kill(tree(running.pid)[-1], signal.SIGKILL)
    failed = await rest.change("failed")
    assert failed.error.details["signal"] == 9
    await eventually(lambda: rest.lost)


async def test_timeout_kills_a_loop_in_c(worker: Any, rest: Any) -> None:
    await rest.bound(**calling("app:spin", timeout_s=0.3))
    pid = worker.supervisors["ctr_1"].running.pid
    await rest.run(a_call(inputs=3))
    stopped = await rest.change("stopped")
    assert stopped.reason == "timeout"
    await eventually(lambda: rest.refused)
    (outcome,) = rest.outcomes
    assert (outcome.index, outcome.state) == (0, State.TIMED_OUT)
    assert outcome.error.code == "function.timeout"
    assert [each.index for each in rest.refused[0].request.inputs] == [1, 2]
    assert start_ticks(pid) == 0


async def test_too_much_memory_ends_the_call_with_figures(worker: Any, rest: Any) -> None:
    limit = 96 << 20
    await rest.bound(**calling("app:eat", resources=Resources(memory_limit_bytes=limit)))
    await rest.run(a_call(300))
    failed = await rest.change("failed")
    assert failed.error.code == "function.out_of_memory"
    await eventually(lambda: rest.ended)
    (outcome,) = rest.outcomes
    assert outcome.error.details["limit_bytes"] == limit
    assert outcome.error.details["peak_bytes"] > limit


async def test_a_limit_that_nobody_holds_is_refused_where_that_is_wanted(
    worker: Any, rest: Any
) -> None:
    workshop = msgspec.structs.replace(worker.workshop, refuses_unenforced=True)
    worker.workshop = workshop
    spec = calling("app:eat", resources=Resources(cpu_limit_millis=500))
    failed = await rest.bound("failed", **spec)
    assert (failed.reason, failed.error.code) == ("start_failed", "worker.limit_not_held")
    assert "limit of cpu" in failed.error.message


async def test_a_sandbox_runs_code_and_commands(worker: Any, rest: Any, bus: Any) -> None:
    await rest.bound(kind=ContainerKind.SANDBOX, deployment_id="", source=None)
    events: list[ExecEvent] = []

    async def keep(delivery: Any) -> None:
        events.append(delivery.message)

    await bus.listen(EXEC_REPLY.pattern(instance="sandbox-1"), keep)

    async def execute(exec_id: str, **fields: Any) -> list[ExecEvent]:
        message = ExecInContainer(
            container_id="ctr_1", exec_id=exec_id, reply_to="sandbox-1", **fields
        )
        reply = await bus.request(EXEC.at(worker_id=WORKER), message, ExecReply, timeout_s=5)
        assert reply.accepted, reply.reason
        mine = lambda: [each for each in events if each.exec_id == exec_id]  # noqa: E731
        await eventually(lambda: mine() and mine()[-1].kind == "ended")
        assert [each.number for each in mine()] == list(range(len(mine())))
        return mine()

    await execute("exe_1", mode="code", code="x = 20 + 22")
    said = await execute("exe_2", mode="code", code="print(x)")
    assert b"".join(each.data for each in said if each.kind == "stdout") == b"42\n"
    said = await execute("exe_3", mode="command", argv=("sh", "-c", "echo out; exit 3"))
    assert b"".join(each.data for each in said if each.kind == "stdout") == b"out\n"
    assert said[-1].exit_code == 3


async def test_a_build_writes_its_layer_and_commits_it(worker: Any, rest: Any, bus: Any) -> None:
    await rest.bound(kind=ContainerKind.BUILD, deployment_id="", source=None)
    message = ExecInContainer(
        container_id="ctr_1",
        exec_id="exe_1",
        reply_to="cache-1",
        mode="command",
        argv=("sh", "-c", "echo hi > $GLOWPLUG_LAYER/greeting"),
    )
    ended = asyncio.Event()
    stored: list[tuple[int, int]] = []

    async def keep(delivery: Any) -> None:
        event = delivery.message
        if event.kind == "ended":
            ended.set()
        if event.kind == "bytes":
            stored.append((event.bytes_done, event.bytes_total))

    await bus.listen(EXEC_REPLY.pattern(instance="cache-1"), keep)
    await bus.request(EXEC.at(worker_id=WORKER), message, ExecReply, timeout_s=5)
    await asyncio.wait_for(ended.wait(), 30)
    commit = CommitLayer(container_id="ctr_1", exec_id="exe_1", reply_to="cache-1")
    committed = await bus.request(COMMIT.at(worker_id=WORKER), commit, LayerCommitted, timeout_s=5)
    assert committed.files == 1, committed.error
    await eventually(lambda: stored == [(0, 3), (3, 3)])
