"""The web's door: endpoints answered as JSON or server-sent events, and durable work by name.

Members of the JSON body, and of the query, are keyword arguments. Where the deployment declares inputs
they are checked here, before anything is queued.
"""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import InvalidRequestError, NotFoundError, UnauthenticatedError
from glowplug_contracts.ids import DEFAULT_WORKSPACE, Digest, InvocationId, WorkspaceId
from glowplug_contracts.messages.deployment import Deployment, FunctionKind
from glowplug_contracts.messages.http import HEADER_INVOCATION
from glowplug_contracts.messages.invocation import (
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    State,
)

from glowplug_gateway.blobs import Blobs, OwnBlobs
from glowplug_gateway.calls import Calls, HeldCall
from glowplug_gateway.catalog import LATEST, Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import (
    body,
    deadline_s,
    invocation_id,
    is_first,
    put_options,
)
from glowplug_gateway.http.calls import accepted
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.intake import Intake
from glowplug_gateway.json_arguments import json_arguments
from glowplug_gateway.ports import Platform
from glowplug_gateway.whole_requests import BadAnswerError, WholeRequest, answer_of, event_of
from glowplug_gateway.work import given_up, interactive, outcome_of

_TIMED_OUT = 504
_FAILED = 500


class EndpointRoutes:
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
        errors_shown: bool,
    ) -> None:
        self._platform = platform
        self._catalog = catalog
        self._calls = calls
        self._intake = intake
        self._blobs = blobs
        self._body_bytes_max = body_bytes_max
        self._errors_shown = errors_shown

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="ANY",
                path="/endpoint/{name}",
                action="endpoint.call",
                summary="Call an endpoint's latest version with a JSON body or a query.",
                on_request=self.on_endpoint,
                access="deployment",
                traced=True,
            ),
            Route(
                method="ANY",
                path="/endpoint/{name}/{version}",
                action="endpoint.call",
                summary="Call one version of an endpoint: latest, or v and its number.",
                on_request=self.on_endpoint,
                access="deployment",
                traced=True,
            ),
            Route(
                method="POST",
                path="/function/{name}",
                action="invocation.spawn",
                summary="Accept durable work for a function; its id is the answer.",
                on_request=self.on_function,
                traced=True,
                status=202,
            ),
            Route(
                method="POST",
                path="/taskqueue/{name}",
                action="invocation.spawn",
                summary="Put a task into a queue; its id is the answer.",
                on_request=self.on_task_queue,
                traced=True,
                status=202,
            ),
        )

    async def on_endpoint(self, exchange: Exchange) -> web.StreamResponse:
        """Call an endpoint and wait."""
        deployment = await self._endpoint(exchange)
        call_id = invocation_id(exchange.request, self._platform.clock)
        if exchange.span is not None:
            exchange.span.set(invocation_id=call_id, deployment_id=deployment.deployment_id)
        wait_s = deadline_s(exchange.request)
        whole = deployment.spec.takes == "request"
        if whole:
            args = await self._whole_request(exchange, call_id, deployment)
        else:
            args = await self._arguments(exchange, deployment)
        asked = interactive(
            self._platform,
            deployment,
            call_id,
            (Input(args=args),),
            exchange.trace,
            deadline_s=wait_s,
            first=is_first(exchange.request),
        )
        async with self._calls.open_call(asked, deployment.spec.max_pending, wait_s) as held:
            if asked.stream:
                return await self._events(exchange, held)
            while not held.done:
                await held.changed()
            if whole:
                return await self._whole_answer(held)
            return await self._answer(exchange, held)

    async def _endpoint(self, exchange: Exchange) -> Deployment:
        """Return the version that the path names; a stranger learns nothing of what needs a token."""
        workspace = exchange.caller.workspace if exchange.caller else DEFAULT_WORKSPACE
        version = exchange.path.get("version", LATEST)
        try:
            deployment = await self._named(
                workspace, exchange.path["name"], FunctionKind.ENDPOINT, version
            )
        except (NotFoundError, InvalidRequestError):
            if exchange.caller is None:
                raise _no_token() from None
            raise
        if deployment.spec.authorized and exchange.caller is None:
            raise _no_token()
        return deployment

    async def _named(
        self, workspace: WorkspaceId, name: str, kind: FunctionKind, version: str = LATEST
    ) -> Deployment:
        deployment = await self._catalog.by_name(workspace, name, version)
        if deployment.spec.kind is FunctionKind.ON_EVENT:
            raise NotFoundError(
                "deployment.not_found", f"{name} is called by events: POST one to /events"
            )
        if deployment.spec.kind is not kind:
            raise NotFoundError(
                "deployment.not_found",
                f"{name} is a {deployment.spec.kind.value}: POST to {_DOORS[deployment.spec.kind]}{name}",
            )
        return deployment

    async def _whole_request(
        self, exchange: Exchange, call_id: InvocationId, deployment: Deployment
    ) -> Payload:
        """Return the payload of a function that takes the request as it is."""
        request = exchange.request
        event = event_of(
            WholeRequest(
                method=request.method,
                path=request.rel_url.path,
                raw_query=request.rel_url.raw_query_string,
                query=tuple(request.query.items()),
                headers=tuple(request.headers.items()),
                body=await body(request, self._body_bytes_max),
                request_id=call_id,
                token_ours=deployment.spec.authorized,
            )
        )
        data = encode({"takes": "request", "args": [event], "kwargs": {}}, "json")
        return await self._blobs.of(deployment.workspace).payload(data, Format.JSON)

    async def _whole_answer(self, held: HeldCall) -> web.Response:
        """Answer what a function that takes whole requests returned."""
        call_id, outcome = held.request.invocation_id, outcome_of(held)
        if outcome.state is not State.SUCCEEDED or outcome.result is None:
            return self._failure(call_id, outcome)
        try:
            answer = answer_of(await self._own(held).bytes_of(outcome.result))
        except BadAnswerError as wrong:
            error = RemoteError(code="function.bad_result", type="BadAnswer", message=str(wrong))
            return self._failure(call_id, InputOutcome(state=State.FAILED, error=error))
        response = web.Response(status=answer.status, body=answer.body)
        response.headers.pop("Content-Type", None)  # the function says which
        for name, value in (*answer.headers, (HEADER_INVOCATION, call_id)):
            response.headers.add(name, value)
        return response

    async def _arguments(self, exchange: Exchange, deployment: Deployment) -> Payload:
        """Return the call's payload. Raises: InvalidRequestError naming every wrong field."""
        request = exchange.request
        raw = await body(request, self._body_bytes_max)
        texts = dict(request.query) if request.rel_url.raw_query_string else {}
        return await json_arguments(deployment, self._blobs, raw, texts)

    async def _answer(self, exchange: Exchange, held: HeldCall) -> web.StreamResponse:
        call_id, outcome = held.request.invocation_id, outcome_of(held)
        result = outcome.result
        if outcome.state is not State.SUCCEEDED or result is None:
            return self._failure(call_id, outcome)
        if result.blob is not None:
            return await self._large(exchange, held, result.blob)
        return web.Response(
            body=result.data or b"null",
            content_type=answers.JSON_TYPE,
            headers={HEADER_INVOCATION: call_id},
        )

    async def _large(self, exchange: Exchange, held: HeldCall, blob: Digest) -> web.StreamResponse:
        stream = answers.Stream(exchange, answers.JSON_TYPE)
        stream.response.headers[HEADER_INVOCATION] = held.request.invocation_id
        async with self._own(held).open(blob) as (_, pieces):
            async for piece in pieces:
                await stream.start()
                await stream.response.write(piece)
        return await stream.end()

    def _own(self, held: HeldCall) -> OwnBlobs:
        return self._blobs.of(held.request.workspace)

    def _failure(self, call_id: InvocationId, outcome: InputOutcome) -> web.Response:
        status = _TIMED_OUT if outcome.state is State.TIMED_OUT else _FAILED
        response = answers.json({"error": self._shown(call_id, outcome.error)}, status=status)
        response.headers[HEADER_INVOCATION] = call_id
        return response

    def _shown(self, call_id: InvocationId, error: RemoteError | None) -> dict[str, object]:
        shown: dict[str, object] = {"id": call_id}
        if error is None:
            return shown | {"code": "function.failed"}
        shown["code"] = error.code
        if self._errors_shown:
            shown |= {"type": error.type, "message": error.message, "details": error.details}
        return shown

    async def _events(self, exchange: Exchange, held: HeldCall) -> web.StreamResponse:
        """Answer a generator's items as server-sent events; its failure is the last event."""
        call_id = held.request.invocation_id
        stream = answers.Stream(exchange, answers.SSE_TYPE)
        stream.response.headers[HEADER_INVOCATION] = call_id
        sent = False
        while True:
            while held.items:
                data = await self._own(held).bytes_of(held.items.popleft())
                # Line breaks in JSON are mere spacing; in an event they would end the line.
                await stream.event(data.replace(b"\n", b" ").replace(b"\r", b" "))
                self._calls.taken(held)
                sent = True
            if held.done:
                break
            await held.changed()
        error = _stream_error(held)
        if error is None:
            await stream.event(b"{}", "end")
            return await stream.end()
        if not sent:
            # Nothing went out: the failure is a status, as for any other endpoint.
            outcome = given_up(held, 0) if held.gave_up is not None else held.outcomes[0]
            return self._failure(call_id, outcome)
        await stream.event(encode(self._shown(call_id, error), "json"), "error")
        return await stream.end()

    async def on_function(self, exchange: Exchange) -> web.StreamResponse:
        """Accept durable work for a function."""
        return await self._spawn(exchange, FunctionKind.FUNCTION)

    async def on_task_queue(self, exchange: Exchange) -> web.StreamResponse:
        """Put a task into a queue."""
        return await self._spawn(exchange, FunctionKind.TASK_QUEUE)

    async def _spawn(self, exchange: Exchange, kind: FunctionKind) -> web.StreamResponse:
        deployment = await self._named(exchange.workspace, exchange.path["name"], kind)
        call_id = invocation_id(exchange.request, self._platform.clock)
        if exchange.span is not None:
            exchange.span.set(invocation_id=call_id, deployment_id=deployment.deployment_id)
        options = put_options(exchange.request, exchange.parent)
        args = await self._arguments(exchange, deployment)
        return accepted(
            await self._intake.accept(deployment, call_id, args, options, exchange.trace)
        )


_DOORS = {
    FunctionKind.ENDPOINT: "/endpoint/",
    FunctionKind.FUNCTION: "/function/",
    FunctionKind.TASK_QUEUE: "/taskqueue/",
    FunctionKind.SCHEDULE: "/schedule/",
}


def _no_token() -> UnauthenticatedError:
    return UnauthenticatedError("auth.no_token", "send `Authorization: Bearer <token>`")


def _stream_error(held: HeldCall) -> RemoteError | None:
    if held.gave_up is not None:
        return held.gave_up.error
    return held.outcomes[0].error
