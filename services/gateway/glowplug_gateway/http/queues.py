"""Routes of queues. Values travel in JSON, as base64: the same for one and for many."""

from __future__ import annotations

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import check_name
from glowplug_contracts.messages.state import (
    PUT_MANY_MAX,
    TAKE_MANY_MAX,
    VALUE_BYTES_MAX,
    QueueItem,
)

from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.door import too_large
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.ports import Platform
from glowplug_gateway.queues import Queues

WAIT_S_MAX = 60.0
ID_CHARS_MAX = 64


class _Put(msgspec.Struct):
    items: list[QueueItem]


_PUT = msgspec.json.Decoder(_Put)


class QueueRoutes:
    """See the module."""

    def __init__(self, platform: Platform, queues: Queues, *, body_bytes_max: int) -> None:
        self._platform = platform
        self._queues = queues
        self._body_bytes_max = body_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/queues",
                action="queue.list",
                summary="List the queues that hold something, and how many items.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path="/api/v1/queues/{queue}",
                action="queue.read",
                summary="Show how many items a queue holds, by partition.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path="/api/v1/queues/{queue}",
                action="queue.write",
                summary="Remove every item that is there now, of ?partition= or all.",
                on_request=self.on_clear,
            ),
            Route(
                method="POST",
                path="/api/v1/queues/{queue}/items",
                action="queue.write",
                summary="Append items to ?partition=, in order; stored for good when answered.",
                on_request=self.on_put,
            ),
            Route(
                method="POST",
                path="/api/v1/queues/{queue}/take",
                action="queue.write",
                summary="Take up to ?count= of the oldest items; ?wait_s= waits for the first.",
                on_request=self.on_take,
            ),
            Route(
                method="GET",
                path="/api/v1/queues/{queue}/first",
                action="queue.read",
                summary="Return the oldest item and leave it there.",
                on_request=self.on_first,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        names = await self._queues.names(exchange.workspace)
        shown = [{"name": name, "length": length} for name, length in names.items()]
        return answers.json({"queues": shown})

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Count."""
        lengths = await self._queues.lengths(exchange.workspace, _name(exchange))
        return answers.json(
            {
                "name": _name(exchange),
                "length": sum(lengths.values()),
                "partitions": lengths,
            }
        )

    async def on_clear(self, exchange: Exchange) -> web.StreamResponse:
        """Empty it."""
        partition = _partition(exchange) if "partition" in exchange.request.query else None
        removed = await self._queues.clear(exchange.workspace, _name(exchange), partition)
        return answers.json({"removed": removed})

    async def on_put(self, exchange: Exchange) -> web.StreamResponse:
        """Put."""
        items = self._items(await body(exchange.request, self._body_bytes_max))
        await self._queues.put(exchange.workspace, _name(exchange), _partition(exchange), items)
        return answers.json({"put": len(items)})

    async def on_take(self, exchange: Exchange) -> web.StreamResponse:
        """Take."""
        taken = await self._queues.take(
            exchange.workspace,
            _name(exchange),
            _partition(exchange),
            int(exchange.number("count", 1, 1, TAKE_MANY_MAX)),
            exchange.number("wait_s", 0.0, 0.0, WAIT_S_MAX),
        )
        return answers.json({"items": taken})

    async def on_first(self, exchange: Exchange) -> web.StreamResponse:
        """Peek."""
        found = await self._queues.first(exchange.workspace, _name(exchange), _partition(exchange))
        if found is None:
            raise NotFoundError("state.not_found", f"queue {_name(exchange)} is empty")
        return answers.json({"items": [found]})

    def _items(self, data: bytes) -> list[QueueItem]:
        try:
            items = _PUT.decode(data).items
        except UNREADABLE as err:
            raise InvalidRequestError("request.invalid", f"the body holds no items: {err}") from err
        if not 0 < len(items) <= PUT_MANY_MAX:
            raise InvalidRequestError(
                "request.invalid", f"1 to {PUT_MANY_MAX} items are put at once, not {len(items)}"
            )
        for item in items:
            if len(item.data) > VALUE_BYTES_MAX:
                raise too_large(f"an item has {len(item.data)} bytes; at most {VALUE_BYTES_MAX}")
        return [
            item
            if 0 < len(item.item_id) <= ID_CHARS_MAX
            else msgspec.structs.replace(item, item_id=self._platform.clock.id("exec"))
            for item in items
        ]


def _name(exchange: Exchange) -> str:
    return check_name(exchange.path["queue"], "queue")


def _partition(exchange: Exchange) -> str:
    given = exchange.request.query.get("partition", "")
    return check_name(given, "partition") if given else ""
