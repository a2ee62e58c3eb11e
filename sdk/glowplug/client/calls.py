"""One call: arguments out, result (or stream, or task id) back.

The invocation's id is made before the first byte leaves, so a request that is sent again is the same
invocation. Whoever stops waiting cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from glowplug.client.answers import Answer, BrokenAnswerError, BusyError, refusal_of
from glowplug.client.names import (
    HEADER_BLOB,
    HEADER_FIRST,
    HEADER_FORMAT,
    HEADER_INVOCATION,
    HEADER_OPTIONS,
    HEADER_RUN_MS,
    HEADER_SIZE,
    HEADER_STATE,
    HEADER_STREAM,
    HEADER_TRACE,
    INLINE_BYTES_MAX,
    PICKLE,
    SUCCEEDED,
    new_invocation_id,
    new_trace,
    state_named,
)
from glowplug.client.outcomes import Ended
from glowplug.errors import GlowplugError, QueueFullError, UnavailableError
from glowplug.options import header_value

if TYPE_CHECKING:
    from glowplug_contracts.messages.invocation import Payload, RemoteError

    from glowplug.client.http import Http

__all__ = ["new_invocation_id", "new_trace"]

ACCEPTED = 202
CANCEL_S = 2.0
PUT_WAIT_S = 30.0
FULL_PAUSE_S = 0.5
LOST_PATIENCE_S = 30.0


async def call(
    http: Http,
    deployment_id: str,
    data: bytes,
    *,
    form: str = PICKLE,
    invocation_id: str = "",
) -> Ended:
    """Run one invocation and wait for its end. Cancelled here, it is cancelled there."""
    invocation_id = invocation_id or new_invocation_id()
    headers, body = await _prepared(http, invocation_id, data, form)
    try:
        answer = await http.request(
            "POST",
            f"/api/v1/deployments/{deployment_id}/call",
            body=body,
            headers=headers,
            patience_s=LOST_PATIENCE_S,
        )
    except asyncio.CancelledError:
        await cancel_call(http, invocation_id)
        raise
    return await read_answer(http, answer, invocation_id)


def call_directly(
    http: Http,
    deployment_id: str,
    data: bytes,
    invocation_id: str,
    *,
    form: str = PICKLE,
) -> Ended:
    """Run one small invocation on the calling thread's own connection and wait for its end.

    Raises: NotHereError where only `call`, with the same id, will do.
    """
    headers = {
        HEADER_INVOCATION: invocation_id,
        HEADER_FIRST: "1",  # whoever sends it again goes the long way, which does not say so
        HEADER_FORMAT: form,
        HEADER_TRACE: new_trace(),
    }
    path = f"/api/v1/deployments/{deployment_id}/call"
    return _ended_directly(_ask(http, "POST", path, headers, data), invocation_id)


def spawn_directly(
    http: Http,
    deployment_id: str,
    data: bytes,
    invocation_id: str,
    *,
    options: Mapping[str, Any],
    form: str = PICKLE,
) -> str:
    """Accept small durable work on the calling thread's own connection; return its id once it is stored.

    Raises: NotHereError where only `spawn`, with the same id, will do, and where the queue is full.
    """
    from glowplug.client.direct import NotHereError  # noqa: PLC0415 - not in containers

    headers = {
        HEADER_INVOCATION: invocation_id,
        HEADER_FORMAT: form,
        HEADER_TRACE: new_trace(),
        "Content-Type": "application/octet-stream",
    }
    if options:
        headers[HEADER_OPTIONS] = header_value(options)
    try:
        answer = _ask(http, "POST", f"/api/v1/deployments/{deployment_id}/spawn", headers, data)
    except QueueFullError as full:
        raise NotHereError("waiting is the long way's") from full
    return str(answer.json()["task_id"])


def result_directly(http: Http, task_id: str, wait_s: float) -> Ended | None:
    """Return how durable work ended, waiting on the calling thread's own connection; None if it has not.

    Raises: NotHereError where only `durable.task_result` will do.
    """
    path = f"/api/v1/tasks/{task_id}/result?wait_s={wait_s:.3f}"
    answer = _ask(http, "GET", path, {}, b"")
    return None if answer.status == ACCEPTED else _ended_directly(answer, task_id)


def _ask(http: Http, method: str, path: str, headers: Mapping[str, str], data: bytes) -> Answer:
    """Send a small request the short way. Raises: NotHereError, or what the gateway refuses it with."""
    from glowplug.client.direct import NotHereError, ask  # noqa: PLC0415 - not in containers

    if len(data) > INLINE_BYTES_MAX:
        raise NotHereError("large arguments travel as blobs")
    answer = ask(http.profile, method, path, headers, data)
    if answer.status >= 400:  # noqa: PLR2004
        refusal = refusal_of(answer)
        raise NotHereError("busy") if isinstance(refusal, BusyError) else refusal
    return answer


def _ended_directly(answer: Answer, invocation_id: str) -> Ended:
    from glowplug.client.direct import NotHereError  # noqa: PLC0415 - not in containers

    if HEADER_BLOB in answer.headers:
        raise NotHereError("large results are blobs")
    return _ended(answer, answer.body, invocation_id)


async def stream(
    http: Http, deployment_id: str, data: bytes, *, form: str = PICKLE
) -> AsyncIterator[Payload | RemoteError]:
    """Run a generator; yield its items' payloads as they come, or last the error it ended in.

    Raises: UnavailableError if the connection is lost in between: items can't be taken back.
    """
    invocation_id = new_invocation_id()
    headers, body = await _prepared(http, invocation_id, data, form)
    headers[HEADER_STREAM] = "1"
    ended = False
    try:
        async with contextlib.AsyncExitStack() as stack:

            async def once(url: str) -> Any:
                return await stack.enter_async_context(
                    http.open_stream(
                        url,
                        "POST",
                        f"/api/v1/deployments/{deployment_id}/call",
                        body=body,
                        headers=headers,
                    )
                )

            response = await http.retrying(once)
            async for item in http.items(response):
                ended = item.kind in {"end", "error"}
                found = item.error if item.kind == "error" else item.item
                if found is not None:
                    yield found
                if ended:
                    return
        raise BrokenAnswerError("the stream ended without an end")
    except GlowplugError:
        raise
    except http.transport_errors as err:
        raise UnavailableError(
            f"the stream of {invocation_id} broke ({err}); items that came can't be taken back, so "
            "it is not tried again"
        ) from err
    finally:
        if not ended:
            await cancel_call(http, invocation_id)


async def spawn(
    http: Http,
    deployment_id: str,
    data: bytes,
    *,
    wait_when_full: bool,
    options: Mapping[str, Any] | None = None,
    form: str = PICKLE,
    invocation_id: str = "",
) -> str:
    """Accept durable work; return its id once it is stored for good.

    `options`: what is said about it (`glowplug.options`).
    Raises: QueueFullError if the queue is full (for PUT_WAIT_S, where asked to wait).
    """
    invocation_id = invocation_id or new_invocation_id()
    headers, body = await _prepared(http, invocation_id, data, form)
    if options:
        headers[HEADER_OPTIONS] = header_value(options)
    clock = asyncio.get_running_loop().time
    until = clock() + (PUT_WAIT_S if wait_when_full else 0.0)
    while True:
        try:
            answer = await http.request(
                "POST",
                f"/api/v1/deployments/{deployment_id}/spawn",
                body=body,
                headers=headers,
            )
        except QueueFullError as full:
            pause = full.retry_after_s or FULL_PAUSE_S
            if clock() + pause > until:
                raise
            await asyncio.sleep(pause)
        else:
            return str(answer.json()["task_id"])


async def cancel_call(http: Http, invocation_id: str) -> None:
    """Cancel an interactive call, as well as that works in a moment."""
    with contextlib.suppress(GlowplugError, TimeoutError):
        async with asyncio.timeout(CANCEL_S):
            await http.request("DELETE", f"/api/v1/calls/{invocation_id}", patience_s=0.5)


async def read_answer(http: Http, answer: Answer, invocation_id: str) -> Ended:
    """Return how a call ended, from the gateway's answer to it."""
    data = answer.body
    if answer.headers.get(HEADER_BLOB):
        from glowplug.client.blobs import get_blob  # noqa: PLC0415 - only large results

        data = await get_blob(http, answer.headers[HEADER_BLOB])
    return _ended(answer, data, invocation_id)


def _ended(answer: Answer, data: bytes, invocation_id: str) -> Ended:
    headers = answer.headers
    state = state_named(headers.get(HEADER_STATE) or SUCCEEDED)
    run_ms = float(headers.get(HEADER_RUN_MS, "0") or 0)
    if state != SUCCEEDED:
        error = _error_in(answer) if answer.body else None
        return Ended(state=state, error=error, run_ms=run_ms, invocation_id=invocation_id)
    return Ended(
        state=state,
        format=headers.get(HEADER_FORMAT) or PICKLE,
        data=data,
        run_ms=run_ms,
        invocation_id=invocation_id,
    )


def _error_in(answer: Answer) -> RemoteError | None:
    if answer.headers.get("Content-Type", "").startswith("application/json"):
        from glowplug.inside.values import remote_error  # noqa: PLC0415 - only inside containers

        found: RemoteError | None = remote_error(answer.json())
        return found
    from glowplug_contracts.codec import decode  # noqa: PLC0415 - not in containers
    from glowplug_contracts.messages.invocation import RemoteError  # noqa: PLC0415

    return decode(answer.body, RemoteError, "msgpack")


async def payload_bytes(http: Http, payload: Payload | None) -> bytes:
    """Return a payload's bytes, wherever they are."""
    if payload is None:
        return b""
    if payload.blob is not None:
        from glowplug.client.blobs import get_blob  # noqa: PLC0415 - only large results

        return await get_blob(http, payload.blob)
    return payload.data or b""


async def _prepared(
    http: Http, invocation_id: str, data: bytes, form: str
) -> tuple[dict[str, str], bytes]:
    headers: dict[str, str] = {
        HEADER_INVOCATION: invocation_id,
        HEADER_FORMAT: form,
        HEADER_TRACE: new_trace(),
        "Content-Type": "application/octet-stream",
    }
    if http.reads:
        headers["Accept"] = http.reads
    if len(data) <= INLINE_BYTES_MAX or not http.has_blobs:
        return headers, data
    from glowplug.client.blobs import put_blob  # noqa: PLC0415 - only large arguments

    headers[HEADER_BLOB] = await put_blob(http, data, look_first=False)
    headers[HEADER_SIZE] = str(len(data))
    return headers, b""
