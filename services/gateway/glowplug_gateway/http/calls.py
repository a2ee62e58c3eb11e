"""The Python door: call, map, spawn and cancel, in the caller's own encoding.

Answers of the user's code, its exceptions too, are 200 with the state in a header; only failures of the
platform are HTTP errors.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE, encode
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import InvocationId, check_id
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.http import (
    BATCH_INPUTS_MAX,
    FRAMES_TYPE,
    HEADER_BLOB,
    HEADER_FORMAT,
    HEADER_INVOCATION,
    HEADER_RUN_MS,
    HEADER_SIZE,
    HEADER_STATE,
    HEADER_STREAM,
    MSGPACK_TYPE,
    MapRequest,
    StreamItem,
)
from glowplug_contracts.messages.invocation import INLINE_BYTES_MAX, Input, InputOutcome, State
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_gateway.blobs import Blobs, OwnBlobs
from glowplug_gateway.calls import Calls, HeldCall
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import (
    arguments,
    body,
    deadline_s,
    invocation_id,
    is_first,
    put_options,
)
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.intake import Intake
from glowplug_gateway.ports import Platform
from glowplug_gateway.work import given_up, interactive, outcome_of

BYTES_TYPE = "application/octet-stream"

_MAP = msgspec.msgpack.Decoder(MapRequest)


class CallRoutes:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        catalog: Catalog,
        calls: Calls,
        intake: Intake,
        blobs: Blobs,
        *,
        body_bytes_max: int,
    ) -> None:
        self._platform = platform
        self._catalog = catalog
        self._calls = calls
        self._intake = intake
        self._blobs = blobs
        self._body_bytes_max = body_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/api/v1/deployments/{deployment}/call",
                action="invocation.call",
                summary="Call a deployment and wait for its result.",
                on_request=self.on_call,
                answers=BYTES_TYPE,
                traced=True,
            ),
            Route(
                method="POST",
                path="/api/v1/deployments/{deployment}/map",
                action="invocation.call",
                summary="Run a batch of inputs; outcomes come as frames, in the order they end.",
                on_request=self.on_map,
                answers=FRAMES_TYPE,
                traced=True,
            ),
            Route(
                method="POST",
                path="/api/v1/deployments/{deployment}/spawn",
                action="invocation.spawn",
                summary="Accept durable work; its id is the answer.",
                on_request=self.on_spawn,
                traced=True,
                status=202,
            ),
            Route(
                method="DELETE",
                path="/api/v1/calls/{invocation}",
                action="invocation.cancel",
                summary="Stop a call that waits here.",
                on_request=self.on_cancel,
            ),
        )

    async def on_call(self, exchange: Exchange) -> web.StreamResponse:
        """Call and wait."""
        request = exchange.request
        deployment = await self._catalog.to_call(exchange.workspace, exchange.path["deployment"])
        stream = request.headers.get(HEADER_STREAM) == "1"
        _check_stream(deployment, stream=stream)
        call_id = invocation_id(request, self._platform.clock)
        if exchange.span is not None:
            exchange.span.set(invocation_id=call_id, deployment_id=deployment.deployment_id)
        wait_s = deadline_s(request)
        args = await arguments(request, self._blobs.of(exchange.workspace), self._body_bytes_max)
        asked = interactive(
            self._platform,
            deployment,
            call_id,
            (Input(args=args),),
            exchange.trace,
            deadline_s=wait_s,
            first=is_first(request),
        )
        async with self._calls.open_call(asked, deployment.spec.max_pending, wait_s) as held:
            if stream:
                return await self._stream(exchange, held)
            while not held.done:
                await held.changed()
            return answer(call_id, outcome_of(held), as_json=answers.wants_json(exchange))

    async def _stream(self, exchange: Exchange, held: HeldCall) -> web.StreamResponse:
        stream = answers.items(exchange)
        stream.response.headers[HEADER_INVOCATION] = held.request.invocation_id
        while True:
            while held.items:
                await stream.item(StreamItem(kind="item", item=held.items.popleft()))
                self._calls.taken(held)
            if held.done:
                break
            await held.changed()
        if held.gave_up is not None:
            last = StreamItem(kind="error", error=held.gave_up.error)
        elif held.outcomes[0].error is not None:
            last = StreamItem(kind="error", error=held.outcomes[0].error)
        else:
            last = StreamItem(kind="end")
        await stream.item(last)
        return await stream.end()

    async def on_map(self, exchange: Exchange) -> web.StreamResponse:
        """Run a batch; answer outcomes as they come."""
        deployment = await self._catalog.to_call(exchange.workspace, exchange.path["deployment"])
        _check_stream(deployment, stream=False)
        batch = _batch(await body(exchange.request, self._body_bytes_max))
        if exchange.span is not None:
            exchange.span.set(
                invocation_id=batch.invocation_id,
                deployment_id=deployment.deployment_id,
                inputs=len(batch.inputs),
            )
        own = self._blobs.of(exchange.workspace)
        inputs = tuple([await _input(one, own) for one in batch.inputs])
        asked = interactive(self._platform, deployment, batch.invocation_id, inputs, exchange.trace)
        async with self._calls.open_call(asked, deployment.spec.max_pending) as held:
            return await self._outcomes(exchange, held)

    async def _outcomes(self, exchange: Exchange, held: HeldCall) -> web.StreamResponse:
        stream = answers.frames(exchange)
        stream.response.headers[HEADER_INVOCATION] = held.request.invocation_id
        sent = 0
        while True:
            while sent < len(held.outcomes):
                await stream.frame(held.outcomes[sent])
                sent += 1
            if held.done:
                break
            await held.changed()
        if held.gave_up is not None:
            if sent == 0:
                given_up(held, 0)  # nothing went out yet: a failure of the platform is a status
            for index in held.gave_up.missing:
                await stream.frame(
                    InputOutcome(index=index, state=held.gave_up.state, error=held.gave_up.error)
                )
        return await stream.end()

    async def on_spawn(self, exchange: Exchange) -> web.StreamResponse:
        """Accept durable work."""
        request = exchange.request
        deployment = await self._catalog.to_call(exchange.workspace, exchange.path["deployment"])
        call_id = invocation_id(request, self._platform.clock)
        if exchange.span is not None:
            exchange.span.set(invocation_id=call_id, deployment_id=deployment.deployment_id)
        options = put_options(request, exchange.parent)
        if exchange.parent:  # the worker's word about who asks, not the code's own
            options = msgspec.structs.replace(options, parent=exchange.parent)
        args = await arguments(request, self._blobs.of(exchange.workspace), self._body_bytes_max)
        record = await self._intake.accept(deployment, call_id, args, options, exchange.trace)
        return accepted(record)

    async def on_cancel(self, exchange: Exchange) -> web.StreamResponse:
        """Stop a call."""
        call_id = InvocationId(check_id("invocation", exchange.path["invocation"]))
        self._calls.cancel(call_id, exchange.workspace)
        return answers.json({"invocation_id": call_id, "state": State.CANCELLED})


def accepted(record: InvocationRecord) -> web.Response:
    """Answer that durable work is stored; the id is of the work that the same key made, if it did."""
    response = answers.json({"task_id": record.invocation_id}, status=202)
    response.headers[HEADER_INVOCATION] = record.invocation_id
    return response


def answer(call_id: InvocationId, outcome: InputOutcome, *, as_json: bool = False) -> web.Response:
    """Answer an outcome in the Python door's way; an error as JSON for whom msgpack is a riddle."""
    headers = {
        HEADER_INVOCATION: call_id,
        HEADER_STATE: outcome.state.value,
        HEADER_RUN_MS: f"{outcome.run_ms:.3f}",
    }
    result = outcome.result
    if outcome.state is not State.SUCCEEDED or result is None:
        if as_json:
            response = answers.json(outcome.error)
            response.headers.update(headers)
            return response
        return web.Response(
            body=b"" if outcome.error is None else encode(outcome.error, "msgpack"),
            headers=headers,
            content_type=MSGPACK_TYPE,
        )
    headers[HEADER_FORMAT] = result.format.value
    if result.blob is not None:
        headers[HEADER_BLOB] = result.blob
        headers[HEADER_SIZE] = str(result.size)
        return web.Response(body=b"", headers=headers, content_type=BYTES_TYPE)
    return web.Response(body=result.data or b"", headers=headers, content_type=BYTES_TYPE)


def _check_stream(deployment: Deployment, *, stream: bool) -> None:
    if stream == deployment.spec.is_generator:
        return
    what = "is a generator" if deployment.spec.is_generator else "is no generator"
    raise InvalidRequestError(
        "request.invalid",
        f"{deployment.spec.name} {what}: the header {HEADER_STREAM} must be "
        + ("1" if deployment.spec.is_generator else "absent"),
    )


def _batch(data: bytes) -> MapRequest:
    try:
        batch = _MAP.decode(data)
    except UNREADABLE as err:
        raise InvalidRequestError("request.invalid", f"the body is no map request: {err}") from err
    check_id("invocation", batch.invocation_id)
    if not 0 < len(batch.inputs) <= BATCH_INPUTS_MAX:
        raise InvalidRequestError(
            "request.invalid",
            f"a batch holds 1 to {BATCH_INPUTS_MAX} inputs, not {len(batch.inputs)}",
        )
    if len({one.index for one in batch.inputs}) != len(batch.inputs):
        raise InvalidRequestError("request.invalid", "two inputs of the batch have one index")
    if any((one.args.data is None) == (one.args.blob is None) for one in batch.inputs):
        raise InvalidRequestError("request.invalid", "an input holds data or names a blob")
    return batch


async def _input(one: Input, blobs: OwnBlobs) -> Input:
    data = one.args.data
    if data is None or len(data) <= INLINE_BYTES_MAX:
        return one
    return Input(index=one.index, args=await blobs.payload(data, one.args.format))
