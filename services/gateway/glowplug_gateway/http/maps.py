"""Routes of maps. A key stands in the query, so that any text may be one."""

from __future__ import annotations

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import check_name
from glowplug_contracts.messages.http import HEADER_FORMAT
from glowplug_contracts.messages.invocation import Format
from glowplug_contracts.messages.state import VALUE_BYTES_MAX, MapItem

from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.maps import Maps, check_key, page
from glowplug_gateway.ports import Platform

BYTES_TYPE = "application/octet-stream"
HEADER_WRITTEN = "Glowplug-Write-Id"
TTL_S_MAX = 10 * 365 * 86_400.0
TTL_S_MIN = 1.0
LIMIT_MAX = 10_000
BODY_BYTES_MAX = 64 * 1024
WRITTEN_CHARS_MAX = 64


class _Add(msgspec.Struct):
    by: int = 1


_ADD = msgspec.json.Decoder(_Add)


class MapRoutes:
    """See the module."""

    def __init__(self, platform: Platform, maps: Maps) -> None:
        self._platform = platform
        self._maps = maps

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        item = "/api/v1/maps/{map}/item"
        return (
            Route(
                method="GET",
                path="/api/v1/maps",
                action="map.list",
                summary="List the maps that hold something.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path="/api/v1/maps/{map}",
                action="map.read",
                summary="Show how many keys a map holds.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path="/api/v1/maps/{map}",
                action="map.write",
                summary="Remove every key of a map.",
                on_request=self.on_clear,
            ),
            Route(
                method="GET",
                path="/api/v1/maps/{map}/keys",
                action="map.read",
                summary="List a map's keys, by pages: ?after=&limit=.",
                on_request=self.on_keys,
            ),
            Route(
                method="GET",
                path=item,
                action="map.read",
                summary="Return what ?key= holds; its format is in a header.",
                on_request=self.on_get,
                answers=BYTES_TYPE,
            ),
            Route(
                method="PUT",
                path=item,
                action="map.write",
                summary="Write ?key=; ?ttl_s= removes it later, ?absent=1 writes only where there is none.",
                on_request=self.on_put,
            ),
            Route(
                method="DELETE",
                path=item,
                action="map.write",
                summary="Remove ?key= and return what it held.",
                on_request=self.on_remove,
                answers=BYTES_TYPE,
            ),
            Route(
                method="POST",
                path="/api/v1/maps/{map}/add",
                action="map.write",
                summary='Add {"by": n} to the whole number of ?key=, exactly.',
                on_request=self.on_add,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        names = await self._maps.names(exchange.workspace)
        return answers.json({"maps": [{"name": name} for name in names]})

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Count."""
        keys = await self._maps.keys(exchange.workspace, _name(exchange))
        return answers.json({"name": _name(exchange), "length": len(keys)})

    async def on_clear(self, exchange: Exchange) -> web.StreamResponse:
        """Remove all keys there are now."""
        removed = 0
        for key in await self._maps.keys(exchange.workspace, _name(exchange)):
            held = await self._maps.remove(
                exchange.workspace, _name(exchange), key, self._written(exchange)
            )
            removed += held is not None
        return answers.json({"removed": removed})

    async def on_keys(self, exchange: Exchange) -> web.StreamResponse:
        """List keys."""
        limit = int(exchange.number("limit", 1_000, 1, LIMIT_MAX))
        keys = await self._maps.keys(exchange.workspace, _name(exchange))
        shown, after = page(keys, exchange.request.query.get("after", ""), limit)
        return answers.json({"keys": shown, "next": after or None})

    async def on_get(self, exchange: Exchange) -> web.StreamResponse:
        """Return a value."""
        key = _key(exchange)
        found = await self._maps.get(exchange.workspace, _name(exchange), key)
        return _value(_name(exchange), key, found)

    async def on_put(self, exchange: Exchange) -> web.StreamResponse:
        """Write a value."""
        ttl_s = 0.0
        if "ttl_s" in exchange.request.query:
            ttl_s = exchange.number("ttl_s", 0.0, TTL_S_MIN, TTL_S_MAX)
        item = MapItem(
            key=_key(exchange),
            format=_format(exchange),
            data=await body(exchange.request, VALUE_BYTES_MAX),
            written=self._written(exchange),
        )
        stored = await self._maps.put(
            exchange.workspace,
            _name(exchange),
            item,
            ttl_s=ttl_s,
            if_absent=exchange.flag("absent"),
        )
        return answers.json({"stored": stored})

    async def on_remove(self, exchange: Exchange) -> web.StreamResponse:
        """Remove and return."""
        key = _key(exchange)
        found = await self._maps.remove(
            exchange.workspace, _name(exchange), key, self._written(exchange)
        )
        return _value(_name(exchange), key, found)

    async def on_add(self, exchange: Exchange) -> web.StreamResponse:
        """Add."""
        data = await body(exchange.request, BODY_BYTES_MAX)
        try:
            by = _ADD.decode(data).by if data else 1
        except UNREADABLE as err:
            raise InvalidRequestError("request.invalid", f'send {{"by": 1}}: {err}') from err
        total = await self._maps.add(
            exchange.workspace, _name(exchange), _key(exchange), by, self._written(exchange)
        )
        return answers.json({"value": total})

    def _written(self, exchange: Exchange) -> str:
        given = exchange.request.headers.get(HEADER_WRITTEN, "")[:WRITTEN_CHARS_MAX]
        return given or self._platform.clock.id("exec")


def _name(exchange: Exchange) -> str:
    return check_name(exchange.path["map"], "map")


def _key(exchange: Exchange) -> str:
    return check_key(exchange.request.query.get("key", ""))


def _format(exchange: Exchange) -> Format:
    text = exchange.request.headers.get(HEADER_FORMAT, Format.JSON.value)
    if text not in set(Format):
        raise InvalidRequestError("request.invalid", f"{HEADER_FORMAT} is json or pickle")
    return Format(text)


def _value(name: str, key: str, found: MapItem | None) -> web.Response:
    if found is None:
        raise NotFoundError("state.not_found", f"map {name} has no key {key[:100]!r}")
    headers = {HEADER_FORMAT: found.format.value}
    return web.Response(body=found.data, headers=headers, content_type=BYTES_TYPE)
