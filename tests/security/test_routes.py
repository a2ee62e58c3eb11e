"""Every route of the gateway, asked by those who may not: the matrix is made from the table of routes.

In the workspace `default` lies one of everything, with a canary in its name or content. Then every route is
asked for these by a token of another workspace, by nobody, with a wrong token, with the services' own
token, and for ids that do not exist. No answer may hold the canary, none may be a fault of the server, and
afterwards everything lies where it lay.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.deployment import FunctionKind, Principal
from glowplug_contracts.messages.schedule import ScheduleSpec
from glowplug_contracts.streams import TOKENS
from glowplug_gateway.auth import token_digest
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.topology import ensure_topology

from tests.security.ledger import Ledger, Row
from tests.support.gateway_world import SOURCE, Web, open_gateway_service, open_world
from tests.support.nats import open_nats_server

CANARY = "zqxcanary"  # in names
CONTENT = "zqxcontent"
OTHER = "gp_other"
WITHIN_S = 20
NOWHERE = "inv_01M80WT6TN2GZENTD265ATBR21"
SERVER_ERROR = 500


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes


class Matrix(msgspec.Struct):
    """What the routes answered: (who asked, method, path) → answer; what still lies there in the end."""

    answers: dict[tuple[str, str, str], Answer]
    open_routes: set[tuple[str, str]]
    before: dict[str, bool]
    after: dict[str, bool]


@asynccontextmanager
async def opened(directory: Path, **more: Any) -> AsyncIterator[tuple[Web, Any]]:
    key = directory / "master-key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    settings = {"master_key_file": str(key), "volumes_dir": str(directory / "volumes"), **more}
    with open_nats_server(directory / "nats") as server:
        async with open_bus(server.url, instance="test") as bus:
            await ensure_topology(bus, shards=1)
            async with open_world(server.url) as world:
                world.store(SOURCE)
                other = Principal(workspace=WorkspaceId("other"), name="other")
                await bus.bucket(TOKENS).create(token_digest(OTHER), other)
                async with (
                    open_gateway_service(server.url, directory, **settings) as url,
                    aiohttp.ClientSession() as session,
                ):
                    yield Web(url, session), world


async def lay_out(gateway: Web, world: Any) -> dict[str, str]:
    """Make one of everything in the workspace `default`; return how routes name each."""
    function = await gateway.deployed(name=f"{CANARY}-greet", kind=FunctionKind.FUNCTION)
    await gateway.deployed(name=f"{CANARY}-end")
    await gateway.deployed(
        name=f"{CANARY}-tidy", kind=FunctionKind.SCHEDULE, schedule=ScheduleSpec(when="@hourly")
    )
    headers, _ = await gateway.call(function, CONTENT)
    sent = {
        "data": json.dumps({"args": [CONTENT], "kwargs": {}}),
        "headers": {"Glowplug-Format": "json"},
    }
    async with gateway("POST", f"/api/v1/deployments/{function}/spawn", **sent) as answer:
        task = (await answer.json())["task_id"] if answer.status < SERVER_ERROR else NOWHERE
    await _made(gateway, "PUT", f"/api/v1/maps/{CANARY}-map/item?key=k", data=CONTENT)
    item = {"format": "json", "data": "eA=="}
    await _made(gateway, "POST", f"/api/v1/queues/{CANARY}-queue/items", json={"items": [item]})
    secret = {"name": f"{CANARY}-secret", "values": {"A": CONTENT}}
    await _made(gateway, "POST", "/api/v1/secrets", json=secret)
    await _made(gateway, "POST", "/api/v1/volumes", json={"name": f"{CANARY}-volume"})
    file = f"/api/v1/volumes/{CANARY}-volume/file?path={CANARY}.txt"
    await _made(gateway, "PUT", file, data=CONTENT)
    model = {"name": f"{CANARY}-model", "source": f"hf:org/{CANARY}"}
    await _made(gateway, "POST", "/models/pull", json=model)
    event = {"ce-id": f"{CANARY}-event", "ce-source": "/x", "ce-type": "x", "ce-specversion": "1.0"}
    await _made(gateway, "POST", "/events", data=CONTENT, headers=event)
    events = (await gateway.json("GET", "/api/v1/events"))["events"]
    return {
        "deployment": function,
        "invocation": headers.get("Glowplug-Invocation", NOWHERE),
        "task": task,
        "letter": task,
        "reference": task,
        "workspace": "default",
        "map": f"{CANARY}-map",
        "queue": f"{CANARY}-queue",
        "secret": f"{CANARY}-secret",
        "volume": f"{CANARY}-volume",
        "model": f"{CANARY}-model",
        "event": events[0]["event_id"],
        "schedule": f"{CANARY}-tidy",
        "name": f"{CANARY}-end",
        "version": "1",
        "digest": world.store(CONTENT.encode()),
    }


async def _made(gateway: Web, method: str, path: str, **fields: Any) -> None:
    async with gateway(method, path, **fields) as answer:
        assert answer.status < 300, (path, answer.status, await answer.text())


async def look(gateway: Web) -> dict[str, bool]:
    """Return whether each thing is there, as its owner sees it."""
    places = {
        "deployments": ("/api/v1/deployments", f"{CANARY}-greet"),
        "map": (f"/api/v1/maps/{CANARY}-map/item?key=k", CONTENT),
        "queue": ("/api/v1/queues", f"{CANARY}-queue"),
        "secret": (f"/api/v1/secrets/{CANARY}-secret", "A"),
        "volume": (f"/api/v1/volumes/{CANARY}-volume/files", f"{CANARY}.txt"),
        "file": (f"/api/v1/volumes/{CANARY}-volume/file?path={CANARY}.txt", CONTENT),
        "model": (f"/models/{CANARY}-model/status", f"{CANARY}-model"),
        "event": ("/api/v1/events", f"{CANARY}-event"),
        "schedule": (f"/api/v1/schedules/{CANARY}-tidy", f"{CANARY}-tidy"),
        "task": ("/api/v1/tasks", f"{CANARY}-greet"),
    }
    found = {}
    for name, (path, word) in places.items():
        async with gateway("GET", path) as answer:
            found[name] = answer.status == 200 and word.encode() in await answer.read()
    return found


async def ask_all(gateway: Web, world: Any) -> Matrix:
    named = await lay_out(gateway, world)
    before = await look(gateway)
    document = await gateway.json("GET", "/openapi.json")
    routes = [
        (method.upper(), path, operation["security"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    callers: dict[str, tuple[str | None, dict[str, str]]] = {
        "another workspace": (OTHER, named),
        "nobody": (None, named),
        "a wrong token": ("gp_wrong", named),
        "the services' token": ("internal", named),
        "its owner, for what is not there": ("gp_local", {}),
    }
    answers = {}
    for who, (token, names) in callers.items():
        for method, path, _ in routes:
            answers[who, method, path] = await _ask(gateway, method, path, token, names)
    open_routes = {(method, path) for method, path, security in routes if {} in security}
    return Matrix(answers, open_routes, before, await look(gateway))


async def _ask(
    gateway: Web, method: str, path: str, token: str | None, names: dict[str, str]
) -> Answer:
    spelled = "/".join(
        names.get(part[1:-1], NOWHERE) if part.startswith("{") else part for part in path.split("/")
    )
    query = {"key": "k", "path": f"{CANARY}.txt", "recursive": "1"}
    fields = {} if method in ("GET", "HEAD") else {"data": b"{}"}
    try:
        async with (
            asyncio.timeout(WITHIN_S),
            gateway(method, spelled, token=token, params=query, **fields) as answer,
        ):
            return Answer(answer.status, await answer.read())
    except TimeoutError:
        return Answer(0, b"it did not end")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    async def make() -> Matrix:
        async with opened(tmp_path_factory.mktemp("routes")) as (gateway, world):
            return await ask_all(gateway, world)

    return asyncio.run(make())


def judge(ledger: Ledger, matrix: Matrix, who: str, fits: Any) -> None:
    """Judge one caller's answers; each is an attempt of its own in the table."""
    wrong = []
    for (caller, method, path), answer in matrix.answers.items():
        if caller != who:
            continue
        held = _no_fault(path, answer) and fits(method, path, answer)
        ledger.rows.append(
            Row("routes", f"routes: {method} {path} by {who}", "the platform", held, shown=True)
        )
        if not held:
            wrong.append(f"{method} {path}: {answer.status} {answer.body[:160]!r}")
    assert not wrong, "\n" + "\n".join(wrong)


def _no_fault(path: str, answer: Answer) -> bool:
    # There is no sandbox service in this world, and the gateway says so.
    absent = answer.status == 503 and "sandbox" in path
    return absent or 0 < answer.status < SERVER_ERROR


def tells_nothing(_method: str, path: str, answer: Answer) -> bool:
    """Return whether an answer holds nothing of the other workspace's; a name that was asked for may be repeated."""
    return CONTENT.encode() not in answer.body and (
        "{" in path or CANARY.encode() not in answer.body
    )


def test_the_control_its_owner_finds_all_of_it(matrix):
    assert all(matrix.before.values()), matrix.before


def test_nobody_gets_in_without_a_token(matrix, ledger):
    judge(
        ledger,
        matrix,
        "nobody",
        lambda method, path, answer: (method, path) in matrix.open_routes or answer.status == 401,
    )


def test_nobody_gets_in_with_a_wrong_token(matrix, ledger):
    judge(
        ledger,
        matrix,
        "a wrong token",
        lambda method, path, answer: (method, path) in matrix.open_routes or answer.status == 401,
    )


def test_the_services_token_alone_is_nobody(matrix, ledger):
    judge(
        ledger,
        matrix,
        "the services' token",
        lambda method, path, answer: (
            (method, path) in matrix.open_routes or answer.status in (401, 403)
        ),
    )


def test_another_workspace_sees_and_changes_nothing(matrix, ledger):
    judge(ledger, matrix, "another workspace", tells_nothing)
    assert matrix.after == matrix.before


def test_what_is_not_there_is_no_fault_of_the_server(matrix, ledger):
    judge(ledger, matrix, "its owner, for what is not there", lambda *_: True)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/deployments/{deployment}",
        "/api/v1/tasks/{task}",
        "/api/v1/tasks/{task}/result",
        "/api/v1/task/{workspace}/{task}",
        "/tasks/{task}/status",
        "/api/v1/events/{event}",
        "/api/v1/secrets/{secret}",
        "/api/v1/schedules/{schedule}",
        "/api/v1/volumes/{volume}/files",
        "/api/v1/traces/{reference}",
        "/api/v1/blobs/{digest}",
    ],
)
def test_what_is_another_workspaces_is_not_there(matrix, path):
    assert matrix.answers["another workspace", "GET", path].status == 404
