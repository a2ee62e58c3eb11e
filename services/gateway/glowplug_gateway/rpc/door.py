"""gRPC's way in: know the caller, open the span, turn the platform's errors into statuses.

The door opens in the background once the gateway is ready: importing grpc takes a tenth of a second that no
start should wait for.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import msgspec
import structlog
from glowplug_contracts.errors import InvalidRequestError, InvariantError, PlatformError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.http import HEADER_TRACE
from glowplug_runtime.failures import PortTakenError
from glowplug_runtime.tls import ServerCertificate
from glowplug_runtime.tracing import SpanHandle, start_span
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from glowplug_gateway.auth import TokenTable
from glowplug_gateway.rpc.messages import pb

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["Glowplug"].full_name
CODE_TRAILER = "glowplug-code"
STATUSES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.FAILED_PRECONDITION,
}


class Asked(msgspec.Struct, frozen=True):
    """One request: whose it is, its trace, and the seconds that its caller waits (0: for ever)."""

    workspace: WorkspaceId
    trace: str
    wait_s: float


Answer = Callable[[Asked, Any], Awaitable[Any]]
Items = Callable[[Asked, Any], AsyncIterator[Any]]


class Methods(msgspec.Struct, frozen=True):
    """What the door serves, by the method's name in the .proto."""

    answers: Mapping[str, Answer]
    streams: Mapping[str, Items]


class RpcDoor:
    """See the module."""

    def __init__(self, methods: Methods, tokens: TokenTable) -> None:
        self._methods = methods
        self._tokens = tokens

    def handlers(self) -> dict[str, Any]:
        """Return a handler for every method of the .proto; one that is missing is our bug."""
        found = {}
        for method in pb.DESCRIPTOR.services_by_name["Glowplug"].methods:
            request, reply = (
                getattr(pb, kind.name) for kind in (method.input_type, method.output_type)
            )
            make: Callable[..., Any]
            serve: Callable[[Any, Any], Any]
            if method.name in self._methods.streams:
                make = grpc.unary_stream_rpc_method_handler
                serve = self._stream(method.name, request, self._methods.streams[method.name])
            else:
                make = grpc.unary_unary_rpc_method_handler
                serve = self._answer(method.name, request, self._methods.answers[method.name])
            # Bytes come in as they are, and are read once we know whose they are: grpc would log a stack for
            # whatever anybody sends, and call it a fault of the server.
            found[method.name] = make(serve, response_serializer=reply.SerializeToString)
        return found

    def _answer(
        self, name: str, kind: Any, answer: Answer
    ) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def serve(data: bytes, context: Any) -> Any:
            with self._opened(name, context) as span:
                try:
                    asked = self._asked(context, span)
                    return await answer(asked, _read(kind, data))
                except Exception as error:  # noqa: BLE001 - each becomes a status
                    failed = error
            return await _refuse(context, name, failed)

        return serve

    def _stream(
        self, name: str, kind: Any, items: Items
    ) -> Callable[[bytes, Any], AsyncIterator[Any]]:
        async def serve(data: bytes, context: Any) -> AsyncIterator[Any]:
            failed: Exception | None = None
            with self._opened(name, context) as span:
                try:
                    asked = self._asked(context, span)
                    async for item in items(asked, _read(kind, data)):
                        yield item
                except Exception as error:  # noqa: BLE001 - each becomes a status
                    failed = error
            if failed is not None:
                await _refuse(context, name, failed)

        return serve

    @contextlib.contextmanager
    def _opened(self, name: str, context: Any) -> Any:
        span = start_span(f"grpc {name}", _metadata(context).get(HEADER_TRACE, ""))
        try:
            yield span
        finally:
            span.end()

    def _asked(self, context: Any, span: SpanHandle) -> Asked:
        """Return who asks. Raises: UnauthenticatedError."""
        caller = self._tokens.principal(_metadata(context).get("authorization", ""))
        span.set(workspace=caller.workspace)
        return Asked(caller.workspace, span.traceparent, context.time_remaining() or 0.0)


def _read(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(
            "request.invalid", f"{len(data)} bytes are no {kind.DESCRIPTOR.full_name}: {error}"
        ) from error


def _metadata(context: Any) -> dict[str, str]:
    return {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}


async def _refuse(context: Any, name: str, error: Exception) -> None:
    """End the call with the status that the error stands for."""
    if isinstance(error, PlatformError) and not isinstance(error, InvariantError):
        trailer = [(CODE_TRAILER, error.code)]
        if error.retry_after_s is not None:
            trailer.append(("retry-after", f"{error.retry_after_s:g}"))
        status = STATUSES.get(error.http_status, grpc.StatusCode.INTERNAL)
        await context.abort(status, str(error), tuple(trailer))
    log.error("grpc.bug", method=name, exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL,
        "the platform failed; its log has the story",
        ((CODE_TRAILER, "platform.bug"),),
    )


def _credentials(certificate: ServerCertificate) -> Any:
    """Return gRPC's form of it; asked for again at each connection, so that a renewed one is used."""

    def current() -> Any:
        return grpc.ssl_server_certificate_configuration([certificate.pem])

    return grpc.dynamic_ssl_server_credentials(
        current(), current, require_client_authentication=False
    )


@contextlib.asynccontextmanager
async def open_rpc(
    door: RpcDoor,
    host: str,
    port: int,
    *,
    bytes_max: int,
    drain_s: float,
    certificate: ServerCertificate | None = None,
) -> AsyncIterator[int]:
    """Serve, over TLS where there is a certificate; yield the bound port.

    At the end calls in hand get `drain_s`. Raises: PortTakenError.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", bytes_max),
            ("grpc.max_send_message_length", bytes_max),
            ("grpc.so_reuseport", 0),
        )
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE, door.handlers())
    server.add_generic_rpc_handlers((handlers,))
    serving = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(serving, server)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    try:
        if certificate is None:
            bound = server.add_insecure_port(f"{host}:{port}")
        else:
            bound = server.add_secure_port(f"{host}:{port}", _credentials(certificate))
    except RuntimeError as err:
        raise PortTakenError(f"can't listen on {host}:{port}: {err}") from err
    await server.start()
    for name in ("", SERVICE):
        await serving.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield int(bound)
    finally:
        await serving.enter_graceful_shutdown()
        await server.stop(drain_s)
