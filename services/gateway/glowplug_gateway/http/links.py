"""The door through which workers link themselves to this gateway; for the platform's own services only."""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.messages.link import (
    LINK_FRAME_BYTES_MAX,
    LINK_HEARTBEAT_S,
    LINK_PATH,
)

from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.links import Links


class LinkRoutes:
    """See the module."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path=LINK_PATH,
                action="platform.link",
                summary="Link a worker (WebSocket).",
                on_request=self.on_link,
                access="internal",
                status=101,
            ),
        )

    async def on_link(self, exchange: Exchange) -> web.StreamResponse:
        """Serve a worker's link until it ends."""
        socket = web.WebSocketResponse(
            heartbeat=LINK_HEARTBEAT_S, max_msg_size=LINK_FRAME_BYTES_MAX, compress=False
        )
        await socket.prepare(exchange.request)
        await self._links.serve(socket)
        return socket
