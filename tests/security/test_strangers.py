"""A gateway that is sent changed requests, as bytes: every answer is one, and the next request is served.

HTTP as it lies on the wire (lines, headers, bodies, lengths, pieces), each route's JSON, and gRPC's messages
and bare bytes. A neighbour asks in between; in the end all lies where it lay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from tests.security.fuzz.engine import WORDS, changed
from tests.security.test_routes import CANARY, lay_out, look, opened
from tests.support.gateway_world import TOKEN
from tests.support.grpc_client import SERVICE, Client, a_client

TIMES = int(os.environ.get("GLOWPLUG_FUZZ", "300"))
SEED = int(os.environ.get("GLOWPLUG_FUZZ_SEED", "1"))
WITHIN_S = 20
# A server that waits for what a request says will come is left alone after so long.
REST_S = 0.3
TOGETHER = 16
LOOKS = 10
CONTROL = "the same requests unchanged are served, before and after"
# What a gateway without a sandbox service, or a scheduler that answers, says of them.
ABSENT = {"503", "504"}
BROKEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
# What takes something away because that is what it is for.
TAKES = {"/api/v1/queues/{queue}/take"}
pytestmark = pytest.mark.attempt(control=CONTROL)


class Kept(logging.Handler):
    """What libraries logged as errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Seen(msgspec.Struct):
    """What came of everything that was sent."""

    http: dict[str, int] = {}  # status → how often
    wrong: list[str] = []
    grpc: dict[str, int] = {}
    neighbour: list[bool] = []
    before: dict[str, bool] = {}
    after: dict[str, bool] = {}
    logged: list[str] = []


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    kept = Kept()
    logging.getLogger().addHandler(kept)
    try:
        seen = asyncio.run(ask_all(tmp_path_factory.mktemp("strangers")))
    finally:
        logging.getLogger().removeHandler(kept)
    seen.logged = kept.lines
    return seen


async def ask_all(directory: Path) -> Seen:
    seen = Seen()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        grpc_port = probe.getsockname()[1]
    async with opened(directory, grpc_port=grpc_port) as (gateway, world):
        named = await lay_out(gateway, world)
        seen.before = await look(gateway)
        document = await gateway.json("GET", "/openapi.json")
        port = int(gateway.url.rpartition(":")[2])
        seeds = tuple(requests(document, named))
        chance = random.Random(f"{SEED}/http")
        for batch in range(LOOKS):
            sent = [changed(chance, seeds) for _ in range(TIMES // LOOKS)]
            await _together(sent, lambda data: _send(port, data, seen))
            await _neighbour(gateway, seen)
            await _together(
                list(bodies(chance, document, named, batch)), lambda r: _json(gateway, r, seen)
            )
            await _neighbour(gateway, seen)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            client = await a_client(channel, TOKEN)
            await _grpc(client, channel, chance, seen, named)
            await _together(
                [chance.randbytes(200) for _ in range(20)], lambda d: _send(grpc_port, d, Seen())
            )
            reply = await client("ListDeployments")
            seen.neighbour.append(len(reply.deployments) > 0)
        await _neighbour(gateway, seen)
        seen.after = await look(gateway)
    return seen


def requests(document: dict[str, Any], named: dict[str, str]) -> Iterator[bytes]:
    """Yield a good request for each route that changes nothing, and some with bodies."""
    head = f"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n"
    for path, methods in document["paths"].items():
        way = re.sub(r"\{(\w+)\}", lambda found: named.get(found[1], "x"), path)
        if "get" in methods and "stream" not in path and "follow" not in path:
            yield f"GET {way}?limit=3&key=k&path=x HTTP/1.1\r\n{head}\r\n".encode()
    body = '{"args": [1], "kwargs": {}}'
    spawn = f"POST /api/v1/deployments/{named['deployment']}/spawn HTTP/1.1\r\n{head}Glowplug-Format: json\r\n"
    yield f"{spawn}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    yield f"{spawn}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n{body}\r\n0\r\n\r\n".encode()
    yield f"{spawn}Glowplug-Blob: {named['digest']}\r\nGlowplug-Size: 10\r\nContent-Length: 0\r\n\r\n".encode()
    event = "ce-id: 1\r\nce-source: /x\r\nce-type: a\r\nce-specversion: 1.0\r\nContent-Length: 1\r\n\r\nx"
    yield f"POST /events HTTP/1.1\r\n{head}{event}".encode()
    yield f"GET /link HTTP/1.1\r\n{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode()


def bodies(
    chance: random.Random, document: dict[str, Any], named: dict[str, str], batch: int
) -> Iterator[tuple[str, str, bytes]]:
    """Yield for every route that takes a body one that is none, or another's; never for what removes."""
    plain = (b'{"name": "x", "values": {"A": "b"}}', b'{"items": []}', b'{"by": 1}', b"{}", b"[]")
    for number, (path, methods) in enumerate(sorted(document["paths"].items())):
        for method in methods:
            if method in ("post", "put", "patch") and number % LOOKS == batch and path not in TAKES:
                way = re.sub(r"\{(\w+)\}", lambda found: named.get(found[1], "x"), path)
                for word in (changed(chance, plain), *chance.sample(WORDS, 6)):
                    yield method.upper(), way, word


async def _together(work: list[Any], do: Any) -> None:
    waiting = iter(work)

    async def one() -> None:
        for each in waiting:
            await do(each)

    await asyncio.gather(*(one() for _ in range(TOGETHER)))


async def _send(port: int, data: bytes, seen: Seen) -> None:
    """Send bytes and read what comes until the end, or until the server waits for the rest of a request."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                while piece := await asyncio.wait_for(reader.read(65_536), REST_S):
                    answer += piece
        finally:
            writer.close()
    for status in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer) or [b"nothing"]:
        _count(seen, status.decode(), f"{data[:300]!r}: {answer[:300]!r}")


async def _json(gateway: Any, request: tuple[str, str, bytes], seen: Seen) -> None:
    method, path, body = request
    try:
        async with (
            asyncio.timeout(WITHIN_S),
            gateway(method, f"{path}?key=fuzz&path=fuzz", data=body) as answer,
        ):
            _count(
                seen,
                str(answer.status),
                f"{method} {path} {body[:200]!r}: {(await answer.read())[:300]!r}",
            )
    except TimeoutError:
        seen.wrong.append(f"no end: {method} {path} {body[:200]!r}")


def _count(seen: Seen, status: str, words: str) -> None:
    seen.http[status] = seen.http.get(status, 0) + 1
    if status >= "500" and status != "nothing" and status not in ABSENT:
        seen.wrong.append(words)


async def _neighbour(gateway: Any, seen: Seen) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        gateway("GET", f"/api/v1/maps/{CANARY}-map/item?key=k") as answer,
    ):
        seen.neighbour.append(answer.status == 200)


async def _grpc(
    client: Client, channel: Any, chance: random.Random, seen: Seen, named: dict[str, str]
) -> None:
    spec = json.dumps({"name": "x", "kind": "function", "source": {"handler": "a:b"}}).encode()
    for name, method in client.methods.items():
        seeds = (
            b"\x0a\x05greet",
            b"\x0a\x05greet\x12\x02{}",
            spec,
            b"\x0a" + bytes([len(spec)]) + spec,
            b"",
        )
        kind = "unary_stream" if method.server_streaming else "unary_unary"
        call = getattr(channel, kind)(f"/{SERVICE}/{name}")
        for _ in range(max(1, TIMES // 10)):
            await _one(call, changed(chance, seeds), client, seen, streams=method.server_streaming)


async def _one(call: Any, data: bytes, client: Client, seen: Seen, *, streams: bool) -> None:
    asked = call(data, metadata=client.metadata, timeout=1.0)
    try:
        if streams:
            async for _ in asked:
                pass
        else:
            await asked
        code = grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        code = error.code()
        if code in BROKEN:
            seen.wrong.append(f"{call}: {data[:200]!r}: {error.details()}")
    seen.grpc[code.name] = seen.grpc.get(code.name, 0) + 1


def test_every_request_has_an_answer_and_none_is_a_fault_of_the_server(seen):
    assert seen.wrong == []


def test_the_changes_reach_what_they_are_for(seen):
    # Served, refused by a route, refused by its reader: all of it happens.
    assert seen.http.get("200", 0) > 20, seen.http
    assert seen.http.get("404", 0) + seen.http.get("422", 0) > 20, seen.http
    assert seen.http.get("400", 0) > 20, seen.http
    assert {"OK", "INVALID_ARGUMENT"} & seen.grpc.keys(), seen.grpc


def test_nothing_that_anybody_sends_leaves_a_stack_in_the_log(seen):
    assert seen.logged == []


def test_a_neighbour_is_served_in_between(seen):
    assert seen.neighbour
    assert all(seen.neighbour)


def test_all_lies_where_it_lay(seen):
    assert all(seen.before.values())
    assert seen.after == seen.before
