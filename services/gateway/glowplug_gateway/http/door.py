"""The one way in: find the route, know the caller, open the span, answer errors.

Every answer that is not a route's own is `{"error": {code, message, details, retry_after_s}}`. What nobody
foresaw is a 500 with the code platform.bug and the request's id; the stack goes to the log, never out.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from glowplug_contracts.errors import (
    ForbiddenError,
    InvalidRequestError,
    InvariantError,
    NotFoundError,
    PlatformError,
    UnauthenticatedError,
)
from glowplug_contracts.inside import allows_route
from glowplug_contracts.messages.deployment import Principal
from glowplug_contracts.messages.http import HEADER_TRACE
from glowplug_runtime.failures import PortTakenError
from glowplug_runtime.http import check_internal, error_response
from glowplug_runtime.tracing import start_span

from glowplug_gateway.auth import TokenTable, inside_of, shows_internal
from glowplug_gateway.http.route import Exchange, Route, Router
from glowplug_gateway.ports import Time

log = structlog.get_logger()

TRACE_ANSWER = "Glowplug-Trace"
KEEPALIVE_S = 75.0
BACKLOG = 1_024


class Listening(NamedTuple):
    """Bound ports: the users', and the one for the platform's own parts (the same without TLS)."""

    port: int
    plain_port: int


_SERVER_ERROR = 500
_TOO_LARGE = 413
_METHOD_NOT_ALLOWED = 405
_CLIENT_GONE = 499


class Door:
    """See the module."""

    def __init__(
        self,
        router: Router,
        tokens: TokenTable,
        clock: Time,
        *,
        internal_token: str = "",
        tls: bool = False,
    ) -> None:
        self._tls = tls
        self._router = router
        self._tokens = tokens
        self._internal_token = internal_token
        self._clock = clock

    async def on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if self._tls and not request.secure and not self._is_internal(request):
            return error_response(
                ForbiddenError(
                    "auth.forbidden", "this port is for the platform's own parts; come with https"
                )
            )
        return await self._answer(request)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        route, path, methods = self._router.find(request.method, request.rel_url.raw_path)
        if route is None:
            return _nothing_there(request, methods)
        exchange = Exchange(request, path)
        if route.traced:
            exchange.span = start_span(
                f"http {route.path}", request.headers.get(HEADER_TRACE, ""), method=request.method
            )
        try:
            self._authenticate(route, exchange)
            response = await route.on_request(exchange)
        except PlatformError as error:
            response = self._refused(route, exchange, error)
        except web.HTTPException as error:
            response = self._refused(route, exchange, _of_aiohttp(error))
        except ConnectionError:
            return _gone(exchange)
        except Exception:  # noqa: BLE001 — the caller gets an answer whatever we did wrong
            response = self._bug(route, exchange)
        finally:
            if exchange.span is not None:
                exchange.span.end()
        if exchange.started is not None and exchange.started is not response:
            return _cut(exchange.started, request)
        if exchange.span is not None and not response.prepared:
            response.headers[TRACE_ANSWER] = exchange.span.trace_id
        return response

    def _is_internal(self, request: web.BaseRequest) -> bool:
        return shows_internal(request.headers.get("Authorization", ""), self._internal_token)

    def _authenticate(self, route: Route, exchange: Exchange) -> None:
        if route.access == "open":
            return
        shown = exchange.request.headers.get("Authorization", "")
        if route.access == "internal":
            check_internal(exchange.request, self._internal_token)
            return
        if shows_internal(shown, self._internal_token):
            self._take_inside(route, exchange)
            return
        try:
            _know(exchange, self._tokens.principal(shown))
        except UnauthenticatedError:
            if route.access == "token":
                raise

    def _take_inside(self, route: Route, exchange: Exchange) -> None:
        """A worker asks for one of its containers: that is less than a person's token may do."""
        inside = inside_of(exchange.request.headers)
        if not allows_route(exchange.request.method, route.path):
            raise ForbiddenError(
                "auth.forbidden",
                f"code inside a container may not ask for {route.path}; do it from outside",
            )
        exchange.inside = inside
        _know(exchange, Principal(workspace=inside.workspace, name=inside.container_id))

    def _refused(
        self, route: Route, exchange: Exchange, error: PlatformError
    ) -> web.StreamResponse:
        if isinstance(error, InvariantError):
            return self._bug(route, exchange)
        if exchange.span is not None:
            exchange.span.set(code=error.code)
            if error.http_status >= _SERVER_ERROR:
                exchange.span.fail(str(error))
        response = error_response(error)
        if isinstance(error, UnauthenticatedError):
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _bug(self, route: Route, exchange: Exchange) -> web.StreamResponse:
        request_id = "req_" + self._clock.id("exec").partition("_")[2]
        log.error("http.bug", route=route.path, request_id=request_id, exc_info=True)  # noqa: LOG014 — called while one is handled
        if exchange.span is not None:
            exchange.span.fail("platform.bug")
        return error_response(
            PlatformError(
                "platform.bug",
                f"the platform failed; its log has the story of {request_id}",
                details={"request_id": request_id},
            )
        )


class _OwnFaults(logging.Filter):
    """Keeps stacks out of the log for what is no request at all: anybody can send it, as often as they like."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


_OWN_FAULTS = _OwnFaults()


def _server_log() -> logging.Logger:
    logger = logging.getLogger(__name__)
    logger.addFilter(_OWN_FAULTS)
    return logger


def _know(exchange: Exchange, caller: Principal) -> None:
    exchange.caller = caller
    if exchange.span is not None:
        exchange.span.set(workspace=caller.workspace)


def _nothing_there(request: web.BaseRequest, methods: frozenset[str]) -> web.Response:
    if not methods:
        return error_response(
            NotFoundError("request.invalid", f"there is no {request.rel_url.path[:200]}")
        )
    allowed = ", ".join(sorted(methods))
    refusal = InvalidRequestError("request.invalid", f"{request.method} is not among {allowed}")
    refusal.http_status = _METHOD_NOT_ALLOWED
    response = error_response(refusal)
    response.headers["Allow"] = allowed
    return response


def _of_aiohttp(error: web.HTTPException) -> PlatformError:
    if error.status == _TOO_LARGE:
        return too_large(error.text or "the body is too large")
    refusal = InvalidRequestError("request.invalid", error.text or error.reason)
    refusal.http_status = error.status
    return refusal


def too_large(message: str) -> InvalidRequestError:
    """Return the 413."""
    error = InvalidRequestError("request.too_large", message)
    error.http_status = _TOO_LARGE
    return error


def _cut(started: web.StreamResponse, request: web.BaseRequest) -> web.StreamResponse:
    """End an answer that had begun before it failed, so that its reader notices."""
    if request.transport is not None:
        request.transport.abort()
    return started


def _gone(exchange: Exchange) -> web.StreamResponse:
    """The caller went away in the middle of its answer; nobody reads this."""
    if exchange.span is not None:
        exchange.span.set(disconnected=True)
    return web.Response(status=_CLIENT_GONE)


@contextlib.asynccontextmanager
async def open_door(
    door: Door,
    host: str,
    port: int,
    *,
    body_bytes_max: int,
    drain_s: float,
    on_closing: Callable[[], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
    plain_host: str = "",
) -> AsyncIterator[Listening]:
    """Serve; yield the bound ports. At the end requests in hand get `drain_s`, and no new one comes in.

    `on_closing` is awaited while nobody can connect any more but what is connected is still heard: a server that
    cleans up reads no further frame. With `tls` there is a second port, on `plain_host` and without, for the
    platform's own parts. A caller's disconnect cancels its route. Raises: PortTakenError.
    """

    def make_request(
        message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            server._loop,  # noqa: SLF001 — the default factory does the same
            client_max_size=body_bytes_max,
        )

    server = web.Server(
        door.on_request,
        request_factory=make_request,
        handler_cancellation=True,
        access_log=None,
        logger=_server_log(),
        keepalive_timeout=KEEPALIVE_S,
    )
    runner = web.ServerRunner(server, shutdown_timeout=drain_s)
    await runner.setup()
    sites = [(host, port, tls)] if tls is None else [(host, port, tls), (plain_host, 0, None)]
    started = []
    try:
        for where, number, context in sites:
            site = web.TCPSite(
                runner, where, number, backlog=BACKLOG, reuse_address=True, ssl_context=context
            )
            await site.start()
            started.append(site)
    except OSError as err:
        await runner.cleanup()
        raise PortTakenError(f"can't listen on {where}:{number}: {err.strerror or err}") from err
    ports = [int(address[1]) for address in runner.addresses]
    try:
        yield Listening(ports[0], ports[-1])
    finally:
        for site in started:
            await site.stop()
        await on_closing()
        await runner.cleanup()
