"""Too much of what a gateway takes: numbers, counts, and streams that do not end.

Whatever a spec says is bounded when it is said. What is counted is refused one beyond its bound, and taken at it.
Streams of ten gigabytes are cut off at theirs: little of them is in memory or on the disk at any time, and
nothing of them stays.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import os
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.deployment import DeploymentSpec, FunctionKind, SourceRef
from glowplug_contracts.messages.http import (
    BATCH_INPUTS_MAX,
    PUTS_MAX,
    MapRequest,
    PutItem,
    PutManyRequest,
)
from glowplug_contracts.messages.invocation import Format, Input, Payload
from glowplug_contracts.messages.sandbox import SandboxSpec
from glowplug_contracts.messages.state import KEY_BYTES_MAX, PUT_MANY_MAX, VALUE_BYTES_MAX
from glowplug_gateway import bounds
from glowplug_gateway.composing import TASKS_MAX
from glowplug_gateway.deployments import read_spec
from glowplug_gateway.put_options import TAGS_MAX
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.topology import ensure_topology

from tests.support.builders_images import a_store, open_imagecache
from tests.support.eventually import eventually
from tests.support.gateway_world import SOURCE, Web, open_gateway_service, open_world
from tests.support.nats import open_nats_server

MIB = 1 << 20
TEN_GB = 10 * 1000**3
STORED_MAX = 8 * MIB
# What may be on its way through sockets, pipes and threads beyond what is kept.
SLACK = 24 * MIB
SPEC = DeploymentSpec(
    name="bomb",
    kind=FunctionKind.FUNCTION,
    source=SourceRef(blob=Digest("a" * 64), handler="a:b"),
)
ID = "inv_00000000000000000000000000"


# -- numbers ----------------------------------------------------------------------------------------


def numbers(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to every number in a struct, but for lists and what holds itself."""
    for field in msgspec.structs.fields(kind):
        inner = [one for one in typing.get_args(field.type) if one is not type(None)]
        found = inner[0] if inner else field.type
        if not isinstance(found, type):
            continue
        if (
            issubclass(found, msgspec.Struct)
            and found is not kind
            and not typing.get_origin(field.type)
        ):
            yield from numbers(found, (*path, field.name))
        elif found in (int, float) and not typing.get_origin(field.type):
            yield (*path, field.name)


def with_number(plain: dict[str, Any], path: tuple[str, ...], value: float) -> bytes:
    """Return a spec as JSON in which one number is another."""
    changed = copy.deepcopy(plain)
    place = changed
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    return msgspec.json.encode(changed)


def read_sandbox(data: bytes) -> None:
    try:
        spec = msgspec.json.decode(data, type=SandboxSpec)
    except msgspec.ValidationError as error:
        raise InvalidRequestError("request.invalid", str(error)) from error
    if wrong := bounds.check_sandbox(spec):
        raise InvalidRequestError("request.invalid", str(wrong))


READERS: dict[str, tuple[Any, dict[str, Any], Callable[[bytes], object]]] = {
    "deployment": (DeploymentSpec, msgspec.to_builtins(SPEC), read_spec),
    "sandbox": (SandboxSpec, {}, read_sandbox),
}
NUMBERS = [(name, path) for name, (kind, _, _) in READERS.items() for path in numbers(kind)]


@pytest.mark.attempt(control="the same spec with plain numbers is taken: the test does so first")
@pytest.mark.parametrize(("name", "path"), NUMBERS, ids=[f"{n}-{'.'.join(p)}" for n, p in NUMBERS])
def test_no_number_of_a_spec_is_without_bounds(name, path):
    _, plain, read = READERS[name]
    read(msgspec.json.encode(plain))
    for value in (-(2**40), -(2**62), 2**62, 1e300, -1e300):
        with pytest.raises(InvalidRequestError):
            read(with_number(plain, path, value))


def test_there_are_numbers():
    assert {"retry.max_retries", "resources.memory_bytes", "timeout_s"} <= {
        ".".join(path) for _, path in NUMBERS
    }
    assert len(NUMBERS) > 25


HUGE: dict[str, dict[str, Any]] = {
    "a handler of a million characters": {
        "source": {"blob": "a" * 64, "handler": "a:" + "b" * 10**6}
    },
    "10,000 variables": {"env": {f"A{n}": "" for n in range(10_000)}},
    "a variable of a megabyte": {"env": {"A": "x" * MIB}},
    "variables of two megabytes": {"env": {f"A{n}": "x" * 90_000 for n in range(24)}},
    "a variable with a zero byte": {"env": {"A": "\0"}},
    "a variable with two names": {"env": {"A=B": "x"}},
    "1,000 steps of an image": {"image": {"steps": [{"kind": "run", "args": ["a"]}] * 1_000}},
    "1,000 exceptions to retry for": {"retry": {"retry_for": ["ValueError"] * 1_000}},
    "1,000 kinds of GPUs": {"resources": {"gpus": ["any"] * 1_000}},
    "fields in fields in fields": {
        "inputs": json.loads('{"a":{"type":"object","fields":' * 90 + "{}" + "}}" * 90)
    },
    "a schedule that is due each millisecond": {
        "kind": "schedule",
        "schedule": {"when": "every 0.001s"},
    },
    "a schedule of 100,000 characters": {
        "kind": "schedule",
        "schedule": {"when": "0," * 50_000 + " * * * *"},
    },
    "a trigger of 10,000 patterns": {"kind": "on_event", "trigger": {"patterns": ["a.b"] * 10_000}},
    "sharing that there is not": {"source": {"blob": "a" * 64, "handler": "a:b", "sharing": "all"}},
}


@pytest.mark.attempt(control="test_no_number_of_a_spec_is_without_bounds takes the plain one")
@pytest.mark.parametrize("what", HUGE)
def test_nothing_of_a_spec_is_endless(what):
    plain = msgspec.to_builtins(SPEC)
    with pytest.raises(InvalidRequestError):
        read_spec(msgspec.json.encode(plain | HUGE[what]))


# -- counts and streams, at a gateway ----------------------------------------------------------------


class Place(msgspec.Struct):
    """A gateway with a real store of small blobs."""

    web: Web
    store: Path
    volumes: Path
    function: str
    queue: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    tmp_path = tmp_path_factory.mktemp("bombs")
    store = a_store(tmp_path / "store", blob_bytes_max=STORED_MAX)
    settings = {
        "blob_bytes_max": STORED_MAX,
        "output_bytes_max": STORED_MAX,
        "volumes_dir": str(tmp_path / "volumes"),
    }
    with open_nats_server(tmp_path / "nats") as server:
        async with open_bus(server.url, instance="test") as bus:
            await ensure_topology(bus, shards=1)
            async with (
                open_imagecache(store, token="internal") as cache_url,
                open_world(server.url, cache_url),
                open_gateway_service(server.url, tmp_path, **settings) as url,
                aiohttp.ClientSession() as session,
            ):
                web = Web(url, session)
                await web.json("PUT", f"/api/v1/blobs/{a_digest(SOURCE)}", data=SOURCE)
                await web.json("POST", "/api/v1/volumes", json={"name": "v"})
                function = await web.deployed(kind=FunctionKind.FUNCTION)
                queue = await web.deployed(name="queue", kind=FunctionKind.TASK_QUEUE)
                yield Place(web, tmp_path / "store", tmp_path / "volumes", function, queue)


def a_digest(data: bytes) -> str:
    from blake3 import blake3

    return blake3(data).hexdigest()


def arguments(count: int) -> list[Payload]:
    return [Payload(format=Format.JSON, data=b"{}", size=2)] * count


def an_id(number: int) -> str:
    return ID[: -len(str(number))] + str(number)


def puts(count: int) -> bytes:
    items = [PutItem(invocation_id=an_id(n), args=one) for n, one in enumerate(arguments(count))]
    return encode(PutManyRequest(puts=tuple(items)), "msgpack")


def inputs(count: int) -> bytes:
    found = tuple(Input(index=n, args=one) for n, one in enumerate(arguments(count)))
    return encode(MapRequest(invocation_id=an_id(1), inputs=found), "msgpack")


def composed(place: Place, count: int) -> bytes:
    from glowplug_contracts.messages.http import ComposedTask, ComposeRequest

    tasks = [
        ComposedTask(task_id=an_id(n), deployment_id=place.function, args=b"{}", format=Format.JSON)
        for n in range(count)
    ]
    return encode(ComposeRequest(tasks=tuple(tasks)), "msgpack")


async def status_of(place: Place, method: str, path: str, **sent: Any) -> int:
    if isinstance(sent.get("data"), bytes):
        sent["data"] = io.BytesIO(sent["data"])
    async with place.web(method, path, **sent) as answer:
        await answer.read()
        return answer.status


COUNTED: dict[str, tuple[str, Callable[[Place], tuple[str, dict[str, Any]]]]] = {
    "tasks put at once": (
        "POST",
        lambda p: (f"/api/v1/deployments/{p.queue}/spawn-many", {"data": puts(PUTS_MAX + 1)}),
    ),
    "inputs of a map at once": (
        "POST",
        lambda p: (f"/api/v1/deployments/{p.function}/map", {"data": inputs(BATCH_INPUTS_MAX + 1)}),
    ),
    "tasks of a composition": (
        "POST",
        lambda p: ("/api/v1/compositions", {"data": composed(p, TASKS_MAX + 1)}),
    ),
    "tags of a task": (
        "POST",
        lambda p: (
            f"/api/v1/deployments/{p.queue}/spawn",
            {
                "data": b"{}",
                "headers": {
                    "Glowplug-Options": json.dumps(
                        {"tags": {f"t{n}": "x" for n in range(TAGS_MAX + 1)}}
                    )
                },
            },
        ),
    ),
    "items of a queue at once": (
        "POST",
        lambda _: (
            "/api/v1/queues/q/items",
            {"json": {"items": [{"format": "json", "data": "eA=="}] * (PUT_MANY_MAX + 1)}},
        ),
    ),
    "bytes of a value": (
        "PUT",
        lambda _: ("/api/v1/maps/m/item?key=k", {"data": bytes(VALUE_BYTES_MAX + 1)}),
    ),
    "bytes of a key": (
        "PUT",
        lambda _: (f"/api/v1/maps/m/item?key={'k' * (KEY_BYTES_MAX + 1)}", {"data": b"x"}),
    ),
    "a deployment's bytes": (
        "POST",
        lambda _: ("/api/v1/deployments", {"data": b'{"name":"' + b"x" * (3 * MIB) + b'"}'}),
    ),
    "a request's bytes": (
        "POST",
        lambda p: (f"/api/v1/deployments/{p.function}/call", {"data": bytes(17 * MIB)}),
    ),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.attempt(control="test_the_control_what_is_within_is_taken")
@pytest.mark.parametrize("what", COUNTED)
async def test_one_more_than_may_be_is_refused(place, what):
    method, ask = COUNTED[what]
    path, sent = ask(place)
    assert await status_of(place, method, path, **sent) in (413, 422)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_control_what_is_within_is_taken(place):
    value = {"data": bytes(VALUE_BYTES_MAX)}
    assert await status_of(place, "PUT", "/api/v1/maps/m/item?key=k", **value) < 300
    items = {"items": [{"format": "json", "data": "eA=="}] * PUT_MANY_MAX}
    assert await status_of(place, "POST", "/api/v1/queues/q/items", json=items) < 300
    path = f"/api/v1/deployments/{place.queue}/spawn-many"
    assert await status_of(place, "POST", path, data=puts(PUTS_MAX)) < 300
    kept = b"y" * STORED_MAX
    assert await status_of(place, "PUT", f"/api/v1/blobs/{a_digest(kept)}", data=kept) == 200
    # These are under the store's bound now, and no test below takes them for its own.
    assert files_of(place.store) >= STORED_MAX


class Endless:
    """Ten gigabytes that are made as they are taken; how many were."""

    def __init__(self) -> None:
        self.taken = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        while self.taken < TEN_GB:
            self.taken += MIB
            yield bytes(MIB)


def files_of(*roots: Path) -> int:
    return sum(path.stat().st_size for root in roots for path in root.rglob("*") if path.is_file())


def memory() -> int:
    """Return the bytes of this process, gateway and store included, that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


STREAMS = {
    "a blob": ("PUT", f"/api/v1/blobs/{'b' * 64}"),
    "a file of a volume": ("PUT", "/api/v1/volumes/v/file?path=bomb"),
    "arguments": ("POST", "/api/v1/deployments/{function}/call"),
    "a value": ("PUT", "/api/v1/maps/m/item?key=bomb"),
    "an event": ("POST", "/events"),
    "a deployment": ("POST", "/api/v1/deployments"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.attempt(
    control="test_the_control_what_is_within_is_taken: streams below the bound are"
)
@pytest.mark.parametrize("what", STREAMS)
async def test_a_stream_of_ten_gigabytes_is_cut_off(place, what):
    method, path = STREAMS[what]
    path = path.replace("{function}", place.function)
    before, held = files_of(place.store, place.volumes), memory()
    endless = Endless()
    # Or the gateway closes the connection under what is still being sent.
    with contextlib.suppress(aiohttp.ClientError):
        assert await status_of(place, method, path, data=endless.pieces()) in (413, 422)
    assert endless.taken <= max(STORED_MAX, 17 * MIB) + SLACK
    assert memory() - held <= 4 * SLACK
    await settled(place, before)
    assert await status_of(place, "GET", "/api/v1/queues") == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.attempt(control="test_the_control_what_is_within_is_taken")
@pytest.mark.parametrize("what", STREAMS)
async def test_ten_gigabytes_that_are_announced_are_refused_before_they_come(place, what):
    method, path = STREAMS[what]
    path = path.replace("{function}", place.function)
    endless = Endless()
    sent = {"data": endless.pieces(), "headers": {"Content-Length": str(TEN_GB)}}
    with contextlib.suppress(aiohttp.ClientError):
        assert await status_of(place, method, path, **sent) in (413, 422)
    assert endless.taken <= SLACK


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.attempt(control="a packed body that is small is read: the test sends one first")
@pytest.mark.parametrize(
    "path", ["/api/v1/deployments/{function}/call", "/api/v1/maps/m/item?key=k"]
)
async def test_a_packed_gigabyte_is_not_unpacked_whole(place, path):
    method = "PUT" if "maps" in path else "POST"
    path = path.replace("{function}", place.function)
    headers = {"Content-Encoding": "gzip"}
    small = {"data": gzip.compress(b"{}"), "headers": headers}
    assert await status_of(place, "PUT", "/api/v1/maps/m/item?key=small", **small) < 300
    async with place.web("GET", "/api/v1/maps/m/item?key=small") as answer:
        assert await answer.read() == b"{}"
    held = memory()
    bomb = gzip.compress(bytes(64 * MIB), 1)
    with contextlib.suppress(aiohttp.ClientError):
        status = await status_of(place, method, path, data=bomb * 16, headers=headers)
        assert status in (400, 413, 422)
    assert memory() - held <= 4 * SLACK


async def settled(place: Place, before: int) -> None:
    """Wait until what was half written is gone: imagecache hears of the broken connection a little later."""
    await eventually(lambda: files_of(place.store, place.volumes) <= before)
