"""One call: arguments out, result (or stream, or task id) back.

The invocation's id is made before the first byte leaves, so a request that is sent again is the same
invocation. Whoever stops waiting cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from glowplug_contracts.codec import decode
from glowplug_contracts.ids import ENTROPY_BYTES, make_id
from glowplug_contracts.messages.http import (
    HEADER_BLOB,
    HEADER_FIRST,
    HEADER_FORMAT,
    HEADER_INVOCATION,
    HEADER_RUN_MS,
    HEADER_SIZE,
    HEADER_STATE,
    HEADER_STREAM,
    HEADER_TRACE,
    StreamItem,
)
from glowplug_contracts.messages.invocation import (
    INLINE_BYTES_MAX,
    Format,
    Payload,
    RemoteError,
    State,
)

from glowplug.client.blobs import get_blob, put_blob
from glowplug.client.direct import NotHereError, post
from glowplug.client.http import (
    TRANSPORT_ERRORS,
    Answer,
    BrokenAnswerError,
    BusyError,
    Http,
    refusal_of,
)
from glowplug.client.outcomes import Ended
from glowplug.client.wire import frames
from glowplug.errors import GlowplugError, QueueFullError, UnavailableError

CANCEL_S = 2.0
PUT_WAIT_S = 30.0
FULL_PAUSE_S = 0.5
LOST_PATIENCE_S = 30.0


def new_invocation_id() -> str:
    """Return a fresh invocation id."""
    return make_id("invocation", time.time_ns() // 1_000_000, os.urandom(ENTROPY_BYTES))


def new_trace() -> str:
    """Return a W3C traceparent that begins a trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


async def call(
    http: Http,
    deployment_id: str,
    data: bytes,
    *,
    form: str = Format.PICKLE.value,
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
    form: str = Format.PICKLE.value,
) -> Ended:
    """Run one small invocation on the calling thread's own connection and wait for its end.

    Raises: NotHereError where only `call`, with the same id, will do.
    """
    if len(data) > INLINE_BYTES_MAX:
        raise NotHereError("large arguments travel as blobs")
    answer = post(
        http.profile.urls[0],
        http.profile.token,
        f"/api/v1/deployments/{deployment_id}/call",
        {
            HEADER_INVOCATION: invocation_id,
            HEADER_FIRST: "1",  # whoever sends it again goes the long way, which does not say so
            HEADER_FORMAT: form,
            HEADER_TRACE: new_trace(),
        },
        data,
    )
    if answer.status >= 400:  # noqa: PLR2004
        refusal = refusal_of(answer)
        raise NotHereError("busy") if isinstance(refusal, BusyError) else refusal
    if HEADER_BLOB in answer.headers:
        raise NotHereError("large results are blobs")
    return _ended(answer, answer.body, invocation_id)


async def stream(
    http: Http, deployment_id: str, data: bytes, *, form: str = Format.PICKLE.value
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
            async for items in frames(response, StreamItem):
                for item in items:
                    ended = item.kind in {"end", "error"}
                    found = item.error if item.kind == "error" else item.item
                    if found is not None:
                        yield found
                    if ended:
                        return
        raise BrokenAnswerError("the stream ended without an end")
    except GlowplugError:
        raise
    except TRANSPORT_ERRORS as err:
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
    form: str = Format.PICKLE.value,
) -> str:
    """Accept durable work; return its id once it is stored for good.

    Raises: QueueFullError if the queue is full (for PUT_WAIT_S, where asked to wait).
    """
    invocation_id = new_invocation_id()
    headers, body = await _prepared(http, invocation_id, data, form)
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
        data = await get_blob(http, answer.headers[HEADER_BLOB])
    return _ended(answer, data, invocation_id)


def _ended(answer: Answer, data: bytes, invocation_id: str) -> Ended:
    headers = answer.headers
    state = State(headers.get(HEADER_STATE, State.SUCCEEDED.value))
    run_ms = float(headers.get(HEADER_RUN_MS, "0") or 0)
    if state is not State.SUCCEEDED:
        error = decode(answer.body, RemoteError, "msgpack") if answer.body else None
        return Ended(state=state, error=error, run_ms=run_ms, invocation_id=invocation_id)
    return Ended(
        state=state,
        format=headers.get(HEADER_FORMAT, Format.PICKLE.value),
        data=data,
        run_ms=run_ms,
        invocation_id=invocation_id,
    )


async def payload_bytes(http: Http, payload: Payload | None) -> bytes:
    """Return a payload's bytes, wherever they are."""
    if payload is None:
        return b""
    if payload.blob is not None:
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
    if len(data) <= INLINE_BYTES_MAX:
        return headers, data
    headers[HEADER_BLOB] = await put_blob(http, data, look_first=False)
    headers[HEADER_SIZE] = str(len(data))
    return headers, b""
