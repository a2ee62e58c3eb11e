"""Routes of secrets. Values come in and never go out, but to a worker whose container starts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import ForbiddenError, InvalidRequestError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.inside import NO_DEPLOYMENT
from glowplug_contracts.messages.deployment import SecretRef
from glowplug_contracts.messages.secret import SecretRecord

from glowplug_gateway.auth import Inside
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.sandboxes import Sandboxes
from glowplug_gateway.secrets import VALUES_BYTES_MAX, Secrets

BODY_BYTES_MAX = 2 * VALUES_BYTES_MAX


class _Given(msgspec.Struct):
    values: dict[str, str]
    name: str = ""


_GIVEN = msgspec.json.Decoder(_Given)


class SecretRoutes:
    """See the module."""

    def __init__(self, catalog: Catalog, sandboxes: Sandboxes, secrets: Secrets) -> None:
        self._catalog = catalog
        self._sandboxes = sandboxes
        self._secrets = secrets

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/secrets",
                action="secret.list",
                summary="List secrets: names, keys and versions, no values.",
                on_request=self.on_list,
            ),
            Route(
                method="POST",
                path="/api/v1/secrets",
                action="secret.write",
                summary='Keep a new secret: {"name", "values": {variable: text}}.',
                on_request=self.on_create,
                status=201,
            ),
            Route(
                method="GET",
                path="/api/v1/secrets/{secret}",
                action="secret.list",
                summary="Show a secret without its values.",
                on_request=self.on_show,
            ),
            Route(
                method="PUT",
                path="/api/v1/secrets/{secret}",
                action="secret.write",
                summary="Replace a secret's values.",
                on_request=self.on_rotate,
            ),
            Route(
                method="DELETE",
                path="/api/v1/secrets/{secret}",
                action="secret.write",
                summary="Forget a secret.",
                on_request=self.on_delete,
            ),
            Route(
                method="GET",
                path="/api/v1/container/environment",
                action="secret.open",
                summary="For workers: the secrets of the deployment whose container starts.",
                on_request=self.on_environment,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        found = await self._secrets.list(exchange.workspace)
        return answers.json({"secrets": [shown(record) for record in found]})

    async def on_create(self, exchange: Exchange) -> web.StreamResponse:
        """Create."""
        given = await _given(exchange)
        record = await self._secrets.create(exchange.workspace, given.name, given.values)
        return answers.json(shown(record), status=201)

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show."""
        return answers.json(
            shown(await self._secrets.show(exchange.workspace, exchange.path["secret"]))
        )

    async def on_rotate(self, exchange: Exchange) -> web.StreamResponse:
        """Rotate."""
        given = await _given(exchange)
        name = exchange.path["secret"]
        return answers.json(
            shown(await self._secrets.rotate(exchange.workspace, name, given.values))
        )

    async def on_delete(self, exchange: Exchange) -> web.StreamResponse:
        """Delete."""
        await self._secrets.delete(exchange.workspace, exchange.path["secret"])
        return answers.json({"name": exchange.path["secret"], "deleted": True})

    async def on_environment(self, exchange: Exchange) -> web.StreamResponse:
        """Open what one deployment names, for the worker that starts its container."""
        if exchange.inside is None:
            raise ForbiddenError("auth.forbidden", "secrets are opened for containers only")
        found = await self._secrets.environment(
            exchange.workspace, await self._named(exchange.workspace, exchange.inside)
        )
        response = answers.json({"environment": found})
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _named(self, workspace: WorkspaceId, inside: Inside) -> Sequence[SecretRef]:
        """Return the secrets of whose container it is: a deployment's, or a sandbox's."""
        if inside.deployment_id == NO_DEPLOYMENT:
            return await self._sandboxes.secrets_of(workspace, inside.container_id)
        return (await self._catalog.by_id(workspace, inside.deployment_id)).spec.secrets


def shown(record: SecretRecord) -> dict[str, object]:
    """Return what anybody may see of a secret."""
    return {
        "name": record.name,
        "keys": record.keys,
        "version": record.version,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


async def _given(exchange: Exchange) -> _Given:
    data = await body(exchange.request, BODY_BYTES_MAX)
    try:
        return _GIVEN.decode(data)
    except UNREADABLE:
        # The decoder's words may quote what was sent.
        raise InvalidRequestError(
            "request.invalid", 'send {"name": "…", "values": {"VARIABLE": "text"}}'
        ) from None
