"""Routes of images: list, look into, compare, and give up. imagecache does all of it."""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import NotFoundError

from glowplug_gateway.http import answers
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.shelf import ImageShelf

OLDER_THAN_S_MAX = 10 * 365 * 86_400.0
REFERENCE_CHARS_MAX = 64
HEX = frozenset("0123456789abcdef")


class ImageRoutes:
    """See the module."""

    def __init__(self, shelf: ImageShelf) -> None:
        self._shelf = shelf

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/images",
                action="image.list",
                summary="List images: what they are made of, when they were used, and by whom.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path="/api/v1/images/usage",
                action="image.list",
                summary="Count the bytes of your images and blobs, and say how the store is.",
                on_request=self.on_usage,
            ),
            Route(
                method="POST",
                path="/api/v1/images/prune",
                action="image.delete",
                summary="Give up images that nothing needs; ?older_than_s= ?dry_run=1.",
                on_request=self.on_prune,
            ),
            Route(
                method="GET",
                path="/api/v1/images/{image}",
                action="image.read",
                summary="Look into an image, by its digest or the beginning of it.",
                on_request=self.on_show,
            ),
            Route(
                method="GET",
                path="/api/v1/images/{image}/diff/{other}",
                action="image.read",
                summary="Compare two images: paths, settings, and the bytes that they share.",
                on_request=self.on_diff,
            ),
            Route(
                method="DELETE",
                path="/api/v1/images/{image}",
                action="image.delete",
                summary="Give up an image that nothing needs.",
                on_request=self.on_delete,
            ),
        )

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        return await self._pass(exchange, "GET", "/images")

    async def on_usage(self, exchange: Exchange) -> web.StreamResponse:
        """Count."""
        return await self._pass(exchange, "GET", "/images/usage")

    async def on_prune(self, exchange: Exchange) -> web.StreamResponse:
        """Give up many."""
        older = exchange.number("older_than_s", 0, 0, OLDER_THAN_S_MAX)
        params = {"older_than_s": str(older), "dry_run": str(int(exchange.flag("dry_run")))}
        return await self._pass(exchange, "POST", "/images/prune", params)

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Look into one."""
        return await self._pass(exchange, "GET", f"/images/{_named(exchange, 'image')}")

    async def on_diff(self, exchange: Exchange) -> web.StreamResponse:
        """Compare two."""
        before, after = _named(exchange, "image"), _named(exchange, "other")
        return await self._pass(exchange, "GET", f"/images/{before}/diff/{after}")

    async def on_delete(self, exchange: Exchange) -> web.StreamResponse:
        """Give one up."""
        return await self._pass(exchange, "DELETE", f"/images/{_named(exchange, 'image')}")

    async def _pass(
        self, exchange: Exchange, method: str, path: str, params: dict[str, str] | None = None
    ) -> web.StreamResponse:
        body = await self._shelf.ask(exchange.workspace, method, path, params)
        return web.Response(body=body, content_type=answers.JSON_TYPE)


def _named(exchange: Exchange, name: str) -> str:
    """Return what may be the beginning of a digest: nothing else becomes part of an address."""
    text = exchange.path[name]
    if not 0 < len(text) <= REFERENCE_CHARS_MAX or set(text) - HEX:
        raise NotFoundError(
            "image.not_found",
            f"no image {text[:REFERENCE_CHARS_MAX]!r}; `glowplug image list` shows those that are kept",
        )
    return text
