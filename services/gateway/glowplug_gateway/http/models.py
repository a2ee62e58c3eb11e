"""Routes of models: asking for weights, how far they are, and what a machine sends of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError, RejectedError, UnavailableError
from glowplug_contracts.inside import MODEL_TOKEN
from glowplug_contracts.messages.deployment import SecretRef
from glowplug_contracts.weights import LISTING_BYTES_MAX, PIECES_BYTES_MAX

from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.door import too_large
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.models import Models, model_value
from glowplug_gateway.secrets import Secrets

READ_BYTES = 256 * 1024
BODY_BYTES_MAX = 16 * 1024
# Where a secret has the token of a model's source.
TOKEN_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TOKEN")


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    source: str
    credentials: str = ""


_ASKED = msgspec.json.Decoder(_Asked)


class ModelRoutes:
    """See the module."""

    def __init__(self, models: Models, secrets: Secrets) -> None:
        self._models = models
        self._secrets = secrets

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/models/pull",
                action="model.write",
                summary='Bring weights: {"name", "source", "credentials"}; the status says how far it is.',
                on_request=self.on_pull,
            ),
            Route(
                method="GET",
                path="/models",
                action="model.list",
                summary="List models.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path="/models/{model}/status",
                action="model.read",
                summary="Return a model: state, progress in percent, versions.",
                on_request=self.on_status,
            ),
            Route(
                method="DELETE",
                path="/models/{model}",
                action="model.write",
                summary="Forget a model; containers that have it keep it.",
                on_request=self.on_delete,
            ),
            Route(
                method="GET",
                path=MODEL_TOKEN,
                action="secret.open",
                summary="For imagecache: the token that a model's pull shows to its source.",
                on_request=self.on_token,
                access="internal",
            ),
            Route(
                method="POST",
                path="/api/v1/models/listing",
                action="model.write",
                summary="Say what is to be uploaded; answers which pieces are missing.",
                on_request=self.on_listing,
            ),
            Route(
                method="POST",
                path="/api/v1/models/pieces",
                action="model.write",
                summary="Upload pieces of a model.",
                on_request=self.on_pieces,
            ),
        )

    async def on_pull(self, exchange: Exchange) -> web.StreamResponse:
        """Ask for weights."""
        data = await body(exchange.request, BODY_BYTES_MAX)
        try:
            asked = _ASKED.decode(data)
        except UNREADABLE as err:
            raise InvalidRequestError(
                "request.invalid", f'send {{"name": "…", "source": "…"}}: {err}'
            ) from err
        if asked.credentials:
            await self._secrets.check(exchange.workspace, [SecretRef(name=asked.credentials)])
        record = await self._models.pull(
            exchange.workspace, asked.name, asked.source, asked.credentials
        )
        return answers.json(model_value(record))

    async def on_token(self, exchange: Exchange) -> web.StreamResponse:
        """Open the one secret that a pull names, while it is under way."""
        path = exchange.path
        workspace, name = await self._models.secret_of(
            path["workspace"], path["model"], path["pull"]
        )
        found = await self._secrets.environment(workspace, [SecretRef(name=name)])
        token = next((found[key] for key in TOKEN_KEYS if key in found), None)
        if token is None:
            raise RejectedError(
                "secret.not_found", f"secret {name} has none of {', '.join(TOKEN_KEYS)}; rotate it"
            )
        response = answers.json({"token": token})
        response.headers["Cache-Control"] = "no-store"
        return response

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        found = await self._models.every(exchange.workspace)
        return answers.json({"models": [model_value(one) for one in found]})

    async def on_status(self, exchange: Exchange) -> web.StreamResponse:
        """Show."""
        record = await self._models.get(exchange.workspace, exchange.path["model"])
        return answers.json(model_value(record))

    async def on_delete(self, exchange: Exchange) -> web.StreamResponse:
        """Forget."""
        name = exchange.path["model"]
        await self._models.delete(exchange.workspace, name)
        return answers.json({"name": name, "deleted": True})

    async def on_listing(self, exchange: Exchange) -> web.StreamResponse:
        """Take a listing."""
        bounded = _Bounded(exchange.request, LISTING_BYTES_MAX)
        try:
            return answers.json(
                await self._models.take_listing(exchange.workspace, bounded.pieces())
            )
        except UnavailableError:
            bounded.check()
            raise

    async def on_pieces(self, exchange: Exchange) -> web.StreamResponse:
        """Take pieces."""
        bounded = _Bounded(exchange.request, PIECES_BYTES_MAX)
        try:
            await self._models.take_pieces(exchange.workspace, bounded.pieces())
        except UnavailableError:
            bounded.check()
            raise
        return answers.json({})


class _Bounded:
    """A body in pieces, cut off where it is longer than may be."""

    def __init__(self, request: web.BaseRequest, bytes_max: int) -> None:
        self._request = request
        self._bytes_max = bytes_max
        self._size = request.content_length or 0
        self.check()

    def check(self) -> None:
        """Raise InvalidRequestError (request.too_large) for a body that is too long."""
        if self._size > self._bytes_max:
            raise too_large(f"the body may have {self._bytes_max} bytes; send it in parts")

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises: InvalidRequestError (request.too_large)."""
        total = 0
        async for piece in self._request.content.iter_chunked(READ_BYTES):
            total += len(piece)
            self._size = max(self._size, total)
            self.check()
            yield piece
