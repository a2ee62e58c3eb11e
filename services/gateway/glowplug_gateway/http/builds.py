"""The route that builds an image without deploying anything: lines tell of the build, the last one of the image."""

from __future__ import annotations

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import ForbiddenError, InvalidRequestError
from glowplug_contracts.messages.deployment import ImageSpec

from glowplug_gateway.blobs import Blobs
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.images import ImageReady, Images

SPEC_BYTES_MAX = 2 * 1024 * 1024
_SPEC = msgspec.json.Decoder(ImageSpec)


class BuildRoutes:
    """See the module."""

    def __init__(self, images: Images, blobs: Blobs) -> None:
        self._images = images
        self._blobs = blobs

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/api/v1/images",
                action="image.build",
                summary="Build an image; lines tell of its steps, the last one of the image.",
                on_request=self.on_build,
                answers=answers.NDJSON_TYPE,
                traced=True,
            ),
        )

    async def on_build(self, exchange: Exchange) -> web.StreamResponse:
        """Build."""
        if exchange.inside is not None:
            raise ForbiddenError("auth.forbidden", "code inside a container builds no images")
        spec = _read_spec(await body(exchange.request, SPEC_BYTES_MAX))
        workspace = exchange.workspace
        async with answers.lines(exchange) as stream:
            await self._blobs.of(workspace).keep_all(spec.blobs())
            async for one in self._images.ensure(spec, workspace):
                if isinstance(one, ImageReady):
                    await stream.line(
                        {
                            "event": "built",
                            "image_digest": one.image_digest,
                            "python": one.base_python,
                        }
                    )
                else:
                    await stream.line(answers.image_event(one))
        return await stream.end()


def _read_spec(data: bytes) -> ImageSpec:
    try:
        return _SPEC.decode(data)
    except UNREADABLE as err:
        raise InvalidRequestError(
            "request.invalid",
            f"the body describes no image: {err}",
            details={"fields": {"": str(err)}},
        ) from err
