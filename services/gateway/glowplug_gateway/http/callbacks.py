"""What a receiver of callbacks needs to know."""

from __future__ import annotations

from aiohttp import web

from glowplug_gateway.http import answers
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.signing import SigningSecrets


class CallbackRoutes:
    """See the module."""

    def __init__(self, secrets: SigningSecrets) -> None:
        self._secrets = secrets

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/callbacks/secret",
                action="callback.secret",
                summary="Show the secret that the workspace's callbacks are signed with.",
                on_request=self.on_secret,
            ),
        )

    async def on_secret(self, exchange: Exchange) -> web.StreamResponse:
        """Show the secret."""
        secret = await self._secrets.of(exchange.workspace)
        return answers.json({"secret": secret})
