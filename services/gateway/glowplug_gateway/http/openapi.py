"""The OpenAPI document, made from the route table: it can't forget a route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import msgspec
from aiohttp import web

from glowplug_gateway.http.answers import JSON_TYPE
from glowplug_gateway.http.route import ANY_METHODS, Exchange, Route


class OpenApiRoutes:
    """See the module."""

    def __init__(self, version: str, others: Callable[[], Sequence[Route]]) -> None:
        self._version = version
        self._others = others

    def routes(self) -> tuple[Route, ...]:
        """Return this area's route."""
        return (
            Route(
                method="GET",
                path="/openapi.json",
                action="platform.show",
                summary="This document.",
                on_request=self.on_openapi,
                access="open",
            ),
        )

    async def on_openapi(self, _exchange: Exchange) -> web.StreamResponse:
        """Return the document."""
        return web.Response(body=self._document(), content_type=JSON_TYPE)

    @cache  # noqa: B019 — one object, for the life of the process
    def _document(self) -> bytes:
        return msgspec.json.encode(document(self._others(), self._version))


def document(routes: Sequence[Route], version: str) -> dict[str, object]:
    """Return the OpenAPI 3.1 document of these routes, but for those of the platform's own services."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        if route.access == "internal":
            continue
        for method in ANY_METHODS if route.method == "ANY" else (route.method,):
            paths.setdefault(route.path, {})[method.lower()] = _operation(route, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Glowplug", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
    }


def _operation(route: Route, method: str) -> dict[str, object]:
    operation: dict[str, object] = {
        "operationId": f"{method.lower()} {route.path}",
        "summary": route.summary,
        "x-action": route.action,
        "responses": {
            str(route.status): {"description": "Done.", "content": {route.answers: {}}},
            "default": {
                "description": "Refused or failed; the code says why.",
                "content": {JSON_TYPE: {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
        "security": _SECURITY[route.access],
    }
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    return operation


_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "token": [{"bearer": []}],
    "deployment": [{"bearer": []}, {}],
    "open": [{}],
}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object"},
                "retry_after_s": {"type": ["number", "null"]},
            },
        }
    },
}
