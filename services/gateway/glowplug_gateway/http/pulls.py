"""Secrets of builds, for those who make an image which this gateway asked for and waits for.

An imagecache opens the credentials of the image's registry; a worker opens what the step that it runs names.
"""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError, NotFoundError, RejectedError
from glowplug_contracts.inside import BUILD_SECRET, BUILD_SECRETS, PULL_CREDENTIALS
from glowplug_contracts.messages.deployment import SecretRef

from glowplug_gateway.http import answers
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.images import Images
from glowplug_gateway.secrets import LOGIN_KEYS, Secrets, stamp_of


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
            Route(
                method="GET",
                path=BUILD_SECRETS,
                action="secret.list",
                summary="For imagecache: stamps of the secrets that an awaited image's steps name; no values.",
                on_request=self.on_stamps,
                access="internal",
            ),
            Route(
                method="GET",
                path=BUILD_SECRET,
                action="secret.open",
                summary="For workers: the variables of a secret that an awaited image's step names.",
                on_request=self.on_values,
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

    async def on_stamps(self, exchange: Exchange) -> web.StreamResponse:
        """Say which values are meant: a changed secret has another stamp."""
        workspace, refs = self._images.secrets_of(exchange.path["ask"])
        try:
            await self._secrets.check(workspace, refs)
            stamps = {
                ref.name: stamp_of(await self._secrets.show(workspace, ref.name)) for ref in refs
            }
        except (NotFoundError, InvalidRequestError) as err:
            raise RejectedError("secret.not_found", err.message, details=err.details) from err
        return answers.json({"stamps": stamps})

    async def on_values(self, exchange: Exchange) -> web.StreamResponse:
        """Open one secret that a step names, while somebody waits for the image."""
        workspace, refs = self._images.secrets_of(exchange.path["ask"])
        name = exchange.path["secret"]
        if name not in {ref.name for ref in refs}:
            raise NotFoundError("secret.not_found", "no step of the image names this secret")
        try:
            found = await self._secrets.environment(workspace, [SecretRef(name=name)])
        except NotFoundError as err:
            raise RejectedError(err.code, err.message) from err
        response = answers.json({"environment": found})
        response.headers["Cache-Control"] = "no-store"
        return response
