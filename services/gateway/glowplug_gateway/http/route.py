"""Routes as values, and finding the one that a request means.

The table is the whole surface: the router, the OpenAPI document and the test of who needs a token are made
from it. Finding a route is a walk down a tree of path segments, one dictionary look-up each.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal
from urllib.parse import unquote

import msgspec
from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError, InvariantError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.deployment import Principal
from glowplug_runtime.tracing import SpanHandle

from glowplug_gateway.auth import Inside

# "token": a bearer token is needed. "deployment": unless the deployment says `authorized=False`.
# "open": for everybody. "internal": for the platform's own services, which show their common token.
Access = Literal["token", "deployment", "open", "internal"]

SEGMENTS_MAX = 12
PATH_CHARS_MAX = 1_024
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


class Exchange:
    """One request on its way through a route.

    Attributes:
        request: what came.
        path: values of the route's placeholders.
        caller: who it is; None only where the route does not need a token.
        span: the server span; None on routes that are not traced.
        started: an answer of which something has gone out already.
        inside: which container asks, where one does.
    """

    __slots__ = ("caller", "inside", "path", "request", "span", "started")

    def __init__(self, request: web.BaseRequest, path: Mapping[str, str]) -> None:
        self.request = request
        self.path = path
        self.caller: Principal | None = None
        self.span: SpanHandle | None = None
        self.started: web.StreamResponse | None = None
        self.inside: Inside | None = None

    @property
    def workspace(self) -> WorkspaceId:
        """Return the caller's workspace."""
        if self.caller is None:
            raise InvariantError("platform.bug", "a route without a token asked for its caller")
        return self.caller.workspace

    @property
    def parent(self) -> str:
        """Return the invocation whose code asks, "" where it is none."""
        return self.inside.parent if self.inside is not None else ""

    @property
    def trace(self) -> str:
        """Return the traceparent for what this request causes."""
        return self.span.traceparent if self.span is not None else ""

    @property
    def origin(self) -> str:
        """Return where the asker reaches this gateway. Raises: InvalidRequestError (no Host, or one that is none)."""
        host = self.request.headers.get("Host", "")
        if not _HOST.match(host):
            raise InvalidRequestError(
                "request.invalid", f"the header Host is {host[:80]!r}, no name"
            )
        return f"{self.request.scheme}://{host}"

    def number(self, name: str, default: float, lowest: float, highest: float) -> float:
        """Return a number in the query. Raises: InvalidRequestError."""
        text = self.request.query.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= highest:
            raise InvalidRequestError(
                "request.invalid",
                f"{name} must be a number from {lowest:g} to {highest:g}",
                details={"fields": {name: "is out of range"}},
            )
        return value

    def flag(self, name: str) -> bool:
        """Return whether the query says 1 (absent and 0: no). Raises: InvalidRequestError."""
        return self.number(name, 0, 0, 1) == 1


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One operation.

    Attributes:
        method: "ANY" stands for GET, POST, PUT, PATCH and DELETE.
        path: with `{placeholders}`, each one segment.
        action: what a right would name: "area.verb".
        summary: one line for the document.
        answers: what the 200 answer holds, for the document.
        traced: whether it gets a server span.
    """

    method: str
    path: str
    action: str
    summary: str
    on_request: Callable[[Exchange], Awaitable[web.StreamResponse]]
    access: Access = "token"
    answers: str = "application/json"
    traced: bool = False
    status: int = 200


ANY_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class _Node:
    __slots__ = ("literals", "methods", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: tuple[str, _Node] | None = None
        self.methods: dict[str, Route] = {}


class Router:
    """See the module."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.strip("/").split("/"):
            if segment.startswith("{"):
                name = segment[1:-1]
                if node.parameter is None:
                    node.parameter = name, _Node()
                if node.parameter[0] != name:
                    raise InvariantError("platform.bug", f"{route.path}: {name} has another name")
                node = node.parameter[1]
            else:
                node = node.literals.setdefault(segment, _Node())
        for method in ANY_METHODS if route.method == "ANY" else (route.method,):
            if method in node.methods:
                raise InvariantError("platform.bug", f"{method} {route.path} is there twice")
            node.methods[method] = route

    def find(
        self, method: str, raw_path: str
    ) -> tuple[Route | None, dict[str, str], frozenset[str]]:
        """Return the route, the placeholders' values, and the methods that the path takes."""
        node = self._root
        values: dict[str, str] = {}
        segments = raw_path.strip("/").split("/") if len(raw_path) <= PATH_CHARS_MAX else []
        if not 0 < len(segments) <= SEGMENTS_MAX:
            return None, {}, frozenset()
        for segment in segments:
            found = node.literals.get(segment)
            if found is None:
                if node.parameter is None or not segment:
                    return None, {}, frozenset()
                name, found = node.parameter
                values[name] = unquote(segment) if "%" in segment else segment
            node = found
        route = node.methods.get(method)
        return route, values, frozenset() if route is not None else frozenset(node.methods)
