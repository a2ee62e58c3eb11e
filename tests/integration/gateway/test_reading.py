"""Logs, traces, health, blobs, sandboxes and the document: what is read."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from blake3 import blake3
from glowplug_contracts.ids import ContainerId, DeploymentId, SandboxId, WorkspaceId
from glowplug_contracts.messages.container import ExecEvent, LogLine, LogSegment
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.sandbox import (
    SandboxRecord,
    SandboxReply,
    SandboxState,
)
from glowplug_contracts.messages.trace import Span, SpanSegment
from glowplug_contracts.subjects import EXEC_REPLY, LOG, SANDBOX_COMMAND, SANDBOX_CREATE, SPAN
from glowplug_runtime import tracing

from tests.support.eventually import eventually
from tests.support.gateway_world import Web, open_gateway_service

# -- logs -----------------------------------------------------------------------------------------


def a_segment(number: int, *texts: str, **changes) -> LogSegment:
    fields = {
        "container_id": ContainerId("ctr_1"),
        "deployment_id": DeploymentId("dep_1"),
        "workspace": WorkspaceId("default"),
        "name": "greet",
        "number": number,
        "lines": tuple(LogLine(at=1.0, stream="stdout", text=text) for text in texts),
    }
    return LogSegment(**(fields | changes))


async def say(bus, segment: LogSegment) -> None:
    to = LOG.at(
        workspace=segment.workspace,
        deployment_id=segment.deployment_id,
        container_id=segment.container_id,
    )
    await bus.append(to, segment)


async def read(gateway, query: str = "") -> list:
    async with gateway("GET", f"/api/v1/logs{query}") as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in (await response.text()).splitlines()]


@contextlib.asynccontextmanager
async def following(gateway, query: str):
    """Yield a function that returns the next line."""
    async with gateway("GET", f"/api/v1/logs?follow=1&{query}") as response:
        assert response.status == 200

        async def following_line():
            return json.loads(await asyncio.wait_for(response.content.readline(), 20))

        yield following_line


async def test_history_is_read_by_id_and_name_with_a_tail(gateway, bus):
    await say(bus, a_segment(0, "one", "two"))
    await say(bus, a_segment(1, "three", dropped=4))
    await say(bus, a_segment(0, "other", container_id="ctr_2", deployment_id="dep_2", name="x"))
    await eventually(lambda: _reads(gateway, "", 5))
    lines = await read(gateway, "?deployment=greet")
    assert [line.get("text", line.get("dropped")) for line in lines] == ["one", "two", 4, "three"]
    assert lines[0]["container_id"] == "ctr_1"
    assert [one["text"] for one in await read(gateway, "?deployment=dep_2")] == ["other"]
    assert [one["text"] for one in await read(gateway, "?deployment=dep_1&tail=1")] == ["three"]
    assert len(await read(gateway, "?deployment=dep_1&deployment=x")) == 5
    assert await read(gateway, "?tail=0") == []


async def _reads(gateway, query: str, count: int) -> bool:
    return len(await read(gateway, query)) == count


async def test_a_follower_sees_history_once_and_what_comes(gateway, bus):
    await say(bus, a_segment(0, "old"))
    await eventually(lambda: _reads(gateway, "", 1))
    async with following(gateway, "deployment=greet&tail=10") as line:
        assert (await line())["text"] == "old"
        await say(bus, a_segment(0, "other", container_id="ctr_2", name="x", deployment_id="dep_2"))
        await say(bus, a_segment(1, "new"))
        assert (await line())["text"] == "new"


async def test_a_mark_comes_after_everything_before_it(gateway, bus):
    async with following(gateway, "tail=0&tag=run1") as line:
        for number in range(20):
            await say(bus, a_segment(number, f"line {number}"))
        await bus.flush()
        await gateway.json("POST", "/api/v1/logs/marks/run1?mark=m1")
        seen = [await line() for _ in range(21)]
    assert [one.get("text") for one in seen[:-1]] == [f"line {n}" for n in range(20)]
    assert seen[-1] == {"mark": "m1"}
    await eventually(lambda: _no_follower(gateway))


async def _no_follower(gateway) -> bool:
    async with gateway("POST", "/api/v1/logs/marks/run1?mark=m2") as response:
        return response.status == 404


async def test_lines_of_one_invocation_can_be_picked(gateway, bus):
    lines = tuple(
        LogLine(at=1.0, stream="stdout", text=text, invocation_id=text) for text in ("a", "b")
    )
    await say(bus, a_segment(0, lines=lines))
    await eventually(lambda: _reads(gateway, "", 2))
    assert [one["text"] for one in await read(gateway, "?invocation=b")] == ["b"]


async def test_logs_are_picked_by_container_and_time(gateway, bus):
    early = LogLine(at=1_000.0, stream="stdout", text="early")
    late = LogLine(at=2_000.0, stream="stdout", text="late")
    await say(bus, a_segment(0, lines=(early, late)))
    await say(bus, a_segment(0, lines=(late,), container_id=ContainerId("ctr_2")))
    await eventually(lambda: _reads(gateway, "", 3))
    picked = await read(gateway, "?since=1500")
    assert [(one["text"], one["container_id"]) for one in picked] == [
        ("late", "ctr_1"),
        ("late", "ctr_2"),
    ]
    assert [one["text"] for one in await read(gateway, "?container=ctr_2")] == ["late"]
    assert await read(gateway, "?container=ctr_2&since=2001") == []
    async with gateway("GET", "/api/v1/logs?since=yesterday") as response:
        assert response.status == 422


async def test_logs_older_than_they_are_kept_are_forgotten(bus):
    from glowplug_gateway import readmodel

    database = readmodel._connect(":memory:")
    for number, at in enumerate((1_000.0, 2_000.0)):
        line = LogLine(at=at, stream="stdout", text=str(number))
        row = readmodel._segment_row(a_segment(number, lines=(line,)), now_unix=0.0)
        database.execute(readmodel.INSERT_SEGMENT, row)
    bounds = readmodel.Bounds(spans=1, segments=9, segments_s=500.0, calls=1)
    model = readmodel.ReadModel(None, None, bounds)
    model._trim(database, 2_100.0)
    kept = readmodel._read_logs(database, "default", readmodel.LogsWanted(segments_max=9))
    assert [one.number for one in kept] == [1]
    database.close()
    model._database.close()
    model._thread.shutdown()


async def test_what_a_full_disk_keeps_from_the_lists_file_is_written_when_there_is_room():
    from types import SimpleNamespace

    from glowplug_contracts.streams import LOGS
    from glowplug_gateway import readmodel

    platform = SimpleNamespace(clock=SimpleNamespace(unix=lambda: 2_000.0))
    bounds = readmodel.Bounds(spans=1, segments=99, segments_s=9_999.0, calls=1)
    model = readmodel.ReadModel(platform, None, bounds)
    (pages,) = model._database.execute("PRAGMA page_count").fetchone()
    wanted = readmodel.LogsWanted(segments_max=99)

    async def take(number):
        line = LogLine(at=1_000.0, stream="stdout", text="x" * 9_000)
        row = readmodel._segment_row(a_segment(number, lines=(line,)), now_unix=0.0)
        await model._take(LOGS, number + 1, readmodel.INSERT_SEGMENT, row)

    model._database.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(3):
        await take(number)
        assert await model.logs("default", wanted) == []
    model._database.execute("PRAGMA max_page_count = 10000")
    await take(3)
    assert [one.number for one in await model.logs("default", wanted)] == [0, 1, 2, 3]
    assert readmodel._stored_sequence(model._database, LOGS.name) == 4
    model._database.close()
    model._thread.shutdown()


def test_a_full_disk_does_not_cost_the_lists_their_file(tmp_path, monkeypatch):
    import sqlite3

    from glowplug_gateway import readmodel
    from glowplug_runtime.failures import StartError

    path = tmp_path / "views.sqlite"
    readmodel._open_database(path).close()

    def full(_path):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise error

    monkeypatch.setattr(readmodel, "_connect", full)
    with pytest.raises(StartError, match="make room"):
        readmodel._open_database(path)
    assert path.exists()


async def test_segments_that_never_arrived_are_a_gap_that_is_told(gateway, bus):
    await say(bus, a_segment(0, "one"))
    await say(bus, a_segment(3, "two"))
    await eventually(lambda: _reads(gateway, "", 3))
    one, gap, two = await read(gateway)
    assert (one["text"], gap["dropped"], two["text"]) == ("one", 2, "two")
    assert "the broker went away" in gap["why"]
    async with following(gateway, "deployment=greet&tail=10") as line:
        assert [(await line()).get("text") for _ in range(3)] == ["one", None, "two"]
        await say(bus, a_segment(5, "three"))
        assert (await line())["dropped"] == 1
        assert (await line())["text"] == "three"


async def test_lines_of_an_invocation_are_found_behind_many_others(gateway, bus):
    wanted = LogLine(at=1.0, stream="stdout", text="mine", invocation_id="inv_mine")
    await say(bus, a_segment(0, lines=(wanted,)))
    for number in range(1, 5):
        await say(bus, a_segment(number, "other"))
    await eventually(lambda: _reads(gateway, "", 5))
    assert [one["text"] for one in await read(gateway, "?tail=1&invocation=inv_mine")] == ["mine"]


async def test_a_reader_that_is_too_slow_is_told_what_it_lost(gateway, bus, monkeypatch):
    from glowplug_gateway import logs

    monkeypatch.setattr(logs, "SEGMENTS_WAITING_MAX", 3)
    follower = logs.Follower("default", frozenset(), "")
    for number in range(5):
        follower.offer(a_segment(number, f"line {number}"))
    assert next(follower.take()) == logs.Dropped(2)


# -- traces ---------------------------------------------------------------------------------------


async def test_a_call_s_trace_is_found_by_both_ids(gateway, world):
    tracing.configure("gateway", "gateway-1", 1.0)
    deployment = await gateway.deployed()
    parent = tracing.new_trace()
    headers, _ = await gateway.call(deployment, headers={"traceparent": parent})
    trace_id = headers["Glowplug-Trace"]
    assert trace_id == tracing.trace_id_of(parent)
    assert tracing.trace_id_of(world.requests[0].trace) == trace_id
    found = await eventually(lambda: _trace(gateway, trace_id))
    by_invocation = await _trace(gateway, headers["Glowplug-Invocation-Id"])
    assert found == by_invocation
    assert [one["name"] for one in found["spans"]] == ["http /api/v1/deployments/{deployment}/call"]


async def _trace(gateway, reference: str):
    async with gateway("GET", f"/api/v1/traces/{reference}") as response:
        return await response.json() if response.status == 200 else None


async def test_history_goes_on_where_the_file_ended(world, bus, nats_server, tmp_path, gateway):
    def a_span(number: int) -> SpanSegment:
        span = Span(
            trace_id=f"{number:032x}",
            span_id=f"{number:016x}",
            parent_id="",
            name="run",
            service="worker",
            start_at=1.0,
            end_at=2.0,
            attributes={"workspace": "default"},
        )
        return SpanSegment(service="worker", instance="w", spans=(span,))

    data = str(tmp_path / "data")
    await bus.append(SPAN.at(service="worker"), a_span(1))
    async with open_gateway_service(nats_server.url, tmp_path, "gw-2", data_dir=data) as url:
        await eventually(lambda: _trace(Web(url, gateway.session), f"{1:032x}"))
    await bus.append(SPAN.at(service="worker"), a_span(2))
    async with open_gateway_service(nats_server.url, tmp_path, "gw-2", data_dir=data) as url:
        web = Web(url, gateway.session)
        await eventually(lambda: _trace(web, f"{2:032x}"))
        assert len((await _trace(web, f"{1:032x}"))["spans"]) == 1


# -- health and the surface -----------------------------------------------------------------------


async def test_health_is_ok_only_when_every_part_is_ready(gateway, world):
    async def healthy():
        async with gateway("GET", "/health", token=None) as response:
            return await response.json() if response.status == 200 else None

    health = await eventually(healthy)
    assert health["status"] == "ok"
    assert set(health["parts"]) == {
        "broker",
        "gateway",
        "scheduler",
        "autoscaler",
        "worker",
        "imagecache",
        "sandbox",
    }
    assert all(part["ready"] for part in health["parts"].values())


async def test_health_names_what_is_missing(bus, nats_server, tmp_path):
    import aiohttp

    async with (
        open_gateway_service(nats_server.url, tmp_path) as url,
        aiohttp.ClientSession() as session,
    ):
        health = await Web(url, session).json("GET", "/health", status=503, token=None)
    assert health["status"] == "degraded"
    assert not health["parts"]["scheduler"]["ready"]
    assert health["parts"]["broker"]["ready"]


OPEN = {
    ("get", "/health"),
    ("get", "/api/v1/health"),
    ("get", "/openapi.json"),
    # A signature in the address stands for the token.
    ("get", "/output/{output}/{name}"),
    ("head", "/output/{output}/{name}"),
}


async def test_every_route_of_the_document_needs_a_token_but_the_open_ones(gateway):
    document = await gateway.json("GET", "/openapi.json", token=None)
    walked = 0
    for path, operations in document["paths"].items():
        concrete = path.replace("{", "").replace("}", "")
        for method, operation in operations.items():
            assert operation["x-action"]
            assert operation["summary"]
            async with gateway(method.upper(), concrete, token=None) as response:
                expected_open = (method, path) in OPEN
                assert (response.status != 401) == expected_open, (method, path)
            walked += 1
    assert walked >= 35
    assert len(document["paths"]) >= 28


async def test_whoami_containers_workers_and_services_answer(gateway, world):
    assert await gateway.json("GET", "/api/v1/whoami") == {"workspace": "default", "name": "local"}
    assert await gateway.json("GET", "/api/v1/containers") == {"containers": []}
    assert await gateway.json("GET", "/api/v1/workers") == {"workers": []}

    async def services():
        found = (await gateway.json("GET", "/api/v1/services"))["services"]
        return "imagecache" in {one["service"] for one in found}

    await eventually(services)


# -- blobs ----------------------------------------------------------------------------------------


async def test_blobs_pass_through_and_are_verified(gateway, world):
    data = b"some bytes"
    path = f"/api/v1/blobs/{blake3(data).hexdigest()}"
    async with gateway("HEAD", path) as response:
        assert response.status == 404
    await gateway.json("PUT", path, data=data)
    async with gateway("HEAD", path) as response:
        assert response.status == 200
    async with gateway("GET", path) as response:
        assert await response.read() == data
    said = await gateway.json("PUT", f"/api/v1/blobs/{'0' * 64}", data=data, status=422)
    assert said["error"]["code"] == "request.bad_digest"
    await gateway.json("GET", f"/api/v1/blobs/{'0' * 64}", status=404)
    await gateway.json("PUT", "/api/v1/blobs/nope", data=data, status=422)


async def test_blobs_are_leased_and_a_look_begins_the_lease_anew(gateway, world):
    data = b"some arguments"
    digest = blake3(data).hexdigest()
    await gateway.json("PUT", f"/api/v1/blobs/{digest}", data=data)
    assert world.kept == {digest: "172800"}
    world.kept.clear()
    async with gateway("HEAD", f"/api/v1/blobs/{digest}") as response:
        assert response.status == 200
    assert world.kept == {digest: "172800"}


# -- sandboxes ------------------------------------------------------------------------------------


@pytest.fixture
async def sandboxes(bus):
    """A sandbox service that knows one session and echoes code."""
    known = {}

    async def on_create(delivery):
        asked = delivery.message
        if asked.spec.env.get("fail"):
            error = RemoteError(
                code="scheduler.no_worker_fits", type="NoCapacity", message="no gpu"
            )
            await delivery.answer(SandboxReply(error=error))
            return
        record = SandboxRecord(
            sandbox_id=asked.sandbox_id,
            workspace=asked.workspace,
            spec=asked.spec,
            container_id=ContainerId("ctr_1"),
            state=SandboxState.RUNNING,
        )
        known[asked.sandbox_id] = record
        await delivery.answer(SandboxReply(record=record))

    async def on_command(delivery):
        asked = delivery.message
        record = known.get(SandboxId(asked.sandbox_id))
        if record is None:
            error = RemoteError(code="sandbox.not_found", type="NotFound", message="it has ended")
            await delivery.answer(SandboxReply(error=error))
            return
        await delivery.answer(SandboxReply(record=record))
        if asked.verb == "exec":
            to = EXEC_REPLY.at(instance=asked.reply_to, exec_id=asked.exec_id)
            for number, (kind, data) in enumerate(
                [("stdout", asked.code.encode()), ("stderr", b"\xff"), ("ended", b"")]
            ):
                event = ExecEvent(
                    exec_id=asked.exec_id,
                    number=number,
                    kind=kind,
                    data=data,
                    exit_code=0 if kind == "ended" else None,
                )
                await bus.send(to, event)

    await bus.listen(SANDBOX_CREATE.at(), on_create, queue="sandbox")
    await bus.listen(SANDBOX_COMMAND.at(), on_command, queue="sandbox")
    await bus.flush()  # the gateway asks through a connection of its own


async def _lines(gateway, method, path, status=200, **kw):
    async with gateway(method, path, **kw) as response:
        text = await response.text()
        assert response.status == status, text
        return [json.loads(line) for line in text.splitlines()]


async def test_the_files_of_a_sandboxs_image_are_kept(gateway, world, sandboxes):
    digest = world.store(b"a tar")
    image = {"steps": [{"kind": "file", "args": ["f"], "blob": digest}]}
    await _lines(gateway, "POST", "/api/v1/sandboxes", json={"image": image})
    assert world.kept == {digest: "forever"}


async def test_a_sandbox_is_created_used_and_ended(gateway, sandboxes):
    (created,) = await _lines(gateway, "POST", "/api/v1/sandboxes", json={"ttl_s": 5})
    assert created["event"] == "created"
    assert created["sandbox"]["state"] == "running"
    assert created["sandbox"]["spec"] == {"ttl_s": 5.0}
    path = f"/api/v1/sandboxes/{created['sandbox']['sandbox_id']}"
    assert (await gateway.json("GET", path))["state"] == "running"
    assert await _lines(gateway, "POST", f"{path}/exec", json={"code": "print(1)"}) == [
        {"kind": "stdout", "text": "print(1)"},
        {"kind": "stderr", "data": "/w=="},
        {"kind": "ended", "exit_code": 0, "error": None},
    ]
    await gateway.json("DELETE", path)


async def test_sandbox_errors_are_statuses(gateway, sandboxes):
    said = await gateway.json("POST", "/api/v1/sandboxes", status=507, json={"env": {"fail": "1"}})
    assert said["error"]["code"] == "scheduler.no_worker_fits"
    unknown = "/api/v1/sandboxes/sbx_00000000000000000000000000"
    await gateway.json("GET", unknown, status=404)
    await gateway.json("POST", f"{unknown}/exec", status=404, json={"code": "1"})
    await gateway.json("POST", f"{unknown}/exec", status=422, json={"mode": "command"})
    await gateway.json("POST", f"{unknown}/exec", status=422, json={"mode": "shell"})
    await gateway.json("POST", "/api/v1/sandboxes", status=422, json={"ttl_s": "soon"})


async def test_no_sandbox_service_is_503(gateway):
    said = await gateway.json("POST", "/api/v1/sandboxes", status=503, json={})
    assert said["error"]["code"] == "platform.unavailable"
