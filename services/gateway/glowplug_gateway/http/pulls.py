"""Credentials of registries, for the imagecache that makes an image which this gateway asked for."""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import NotFoundError, RejectedError
from glowplug_contracts.inside import PULL_CREDENTIALS
from glowplug_contracts.messages.deployment import SecretRef

from glowplug_gateway.http import answers
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.images import Images
from glowplug_gateway.secrets import LOGIN_KEYS, Secrets


class PullRoutes:
    """See the module."""

    def __init__(self, images: Images, secrets: Secrets) -> None:
        self._images = images
        self._secrets = secrets

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path=PULL_CREDENTIALS,
                action="secret.open",
                summary="For imagecache: the registry's user and password for an image that is awaited.",
                on_request=self.on_credentials,
                access="internal",
            ),
        )

    async def on_credentials(self, exchange: Exchange) -> web.StreamResponse:
        """Open the one secret that the image's description names, while somebody waits for the image."""
        workspace, name = self._images.secret_of(exchange.path["ask"])
        try:
            found = await self._secrets.environment(workspace, [SecretRef(name=name)])
        except NotFoundError as err:  # 404 means here that another gateway should be asked
            raise RejectedError(err.code, err.message) from err
        lacking = [key for key in LOGIN_KEYS if key not in found]
        if lacking:
            raise RejectedError(
                "secret.not_found", f"secret {name} lacks {', '.join(lacking)}; rotate it"
            )
        user, password = (found[key] for key in LOGIN_KEYS)
        response = answers.json({"username": user, "password": password})
        response.headers["Cache-Control"] = "no-store"
        return response
