"""Sending much durable work: in requests of many pieces, a few at a time, the refused ones again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glowplug.client import calling, calls
from glowplug.client.http import Http
from glowplug.client.names import HEADER_TRACE
from glowplug.client.session import current_session
from glowplug.errors import GlowplugError, QueueFullError, error_for
from glowplug.remote import is_remote
from glowplug.wrappers import Wrapper

PIECES_MAX = 500
REQUEST_BYTES_MAX = 4 * 1024 * 1024
REQUESTS_AT_ONCE = 4
INSIDE_AT_ONCE = 16
INLINE_BYTES_MAX = 256 * 1024

Put = str | BaseException


async def put_many(
    wrapper: Wrapper[Any, Any], values: Iterator[tuple[Any, ...]], options: Mapping[str, Any]
) -> list[Put]:
    """Put one piece for each tuple of arguments; return each one's id or exception, in order."""
    if is_remote():
        return await _one_by_one(wrapper, values, options)
    session = current_session()
    deployed = await session.deployment_of(wrapper)
    path = f"/api/v1/deployments/{deployed.deployment_id}/spawn-many"
    found: dict[int, Put] = {}
    running: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as tasks:
        for places in _requests(wrapper, values, deployed.python_there):
            sending = tasks.create_task(_send(session.http, path, places, options, found))
            running.add(sending)
            sending.add_done_callback(running.discard)
            while len(running) >= REQUESTS_AT_ONCE:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    return [found[place] for place in range(len(found))]


def _requests(
    wrapper: Wrapper[Any, Any], values: Iterator[tuple[Any, ...]], python_there: str
) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the pieces of one request after the other: (place, arguments)."""
    pieces: list[tuple[int, bytes]] = []
    size = 0
    for place, args in enumerate(values):
        data = calling.dump_arguments(wrapper, args, {}, python_there)
        if pieces and (len(pieces) == PIECES_MAX or size + len(data) > REQUEST_BYTES_MAX):
            yield pieces
            pieces, size = [], 0
        pieces.append((place, data))
        size += min(len(data), INLINE_BYTES_MAX)
    if pieces:
        yield pieces


async def _send(
    http: Http,
    path: str,
    pieces: Sequence[tuple[int, bytes]],
    options: Mapping[str, Any],
    found: dict[int, Put],
) -> None:
    """Send one request; what a full queue refuses is sent again for PUT_WAIT_S, with the same ids."""
    import msgspec  # noqa: PLC0415 - not in containers
    from glowplug_contracts.messages.http import PutItem, PutManyRequest, PutOptions  # noqa: PLC0415

    said = msgspec.convert({k: v for k, v in options.items() if v is not None}, PutOptions)
    puts = {
        place: PutItem(
            invocation_id=calls.new_invocation_id(),  # type: ignore[arg-type]
            args=await _payload(http, data),
            options=said,
        )
        for place, data in pieces
    }
    clock = asyncio.get_running_loop().time
    until = clock() + calls.PUT_WAIT_S
    headers = {"Content-Type": "application/msgpack", HEADER_TRACE: calls.new_trace()}
    while puts:
        places = list(puts)
        body = msgspec.msgpack.encode(PutManyRequest(puts=tuple(puts.values())))
        answer = await http.request("POST", path, body=body, headers=headers)
        for place, one in zip(places, answer.json()["tasks"], strict=True):
            found[place] = one["task_id"] if "task_id" in one else _error(one["error"])
        full = [place for place in places if isinstance(found[place], QueueFullError)]
        pause_s = max((_pause(found[place]) for place in full), default=0.0)
        if clock() + pause_s > until:
            return
        puts = {place: puts[place] for place in full}
        if puts:
            await asyncio.sleep(pause_s)


async def _payload(http: Http, data: bytes) -> Any:
    from glowplug_contracts.messages.invocation import Format, Payload  # noqa: PLC0415

    if len(data) <= INLINE_BYTES_MAX:
        return Payload(format=Format.PICKLE, data=data, size=len(data))
    from glowplug.client.blobs import put_blob  # noqa: PLC0415 - only large arguments

    digest = await put_blob(http, data, look_first=False)
    return Payload(format=Format.PICKLE, blob=digest, size=len(data))  # type: ignore[arg-type]


def _pause(error: Put) -> float:
    after = getattr(error, "retry_after_s", None)
    return float(after or calls.FULL_PAUSE_S)


def _error(value: Mapping[str, Any]) -> GlowplugError:
    return error_for(
        str(value["code"]),
        str(value["message"]),
        details=value.get("details") or {},
        retry_after_s=value.get("retry_after_s"),
    )


async def _one_by_one(
    wrapper: Wrapper[Any, Any], values: Iterator[tuple[Any, ...]], options: Mapping[str, Any]
) -> list[Put]:
    """Inside a container: one request each, a few at a time."""
    turn = asyncio.Semaphore(INSIDE_AT_ONCE)

    async def one(args: tuple[Any, ...]) -> Put:
        async with turn:
            try:
                return await calling.spawn(wrapper, args, {}, wait_when_full=True, options=options)
            except GlowplugError as error:
                return error

    return await asyncio.gather(*(one(args) for args in values))
