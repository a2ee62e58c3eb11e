"""The HTTP door to images: for gateways, which say in WORKSPACE_HEADER whose are meant."""

from __future__ import annotations

import msgspec
from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import WorkspaceId, check_token
from glowplug_contracts.manifests import WORKSPACE_HEADER

from glowplug_imagecache import keeping, watching
from glowplug_imagecache.keeping import Keeper
from glowplug_imagecache.shelf import Shelf
from glowplug_imagecache.watching import Watcher

OLDER_THAN_S_MAX = 10 * 365 * 86_400.0

_ENCODER = msgspec.json.Encoder()


class ImageDoors:
    """The endpoints."""

    def __init__(self, shelf: Shelf, keeper: Keeper, watcher: Watcher, bytes_max: int) -> None:
        self._shelf = shelf
        self._keeper = keeper
        self._watcher = watcher
        self._bytes_max = bytes_max

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to the application."""
        return [
            web.get("/images", self.every, allow_head=False),
            web.get("/images/usage", self.usage, allow_head=False),
            web.post("/images/prune", self.prune),
            web.get("/images/{image}", self.show, allow_head=False),
            web.get("/images/{image}/diff/{other}", self.diff, allow_head=False),
            web.delete("/images/{image}", self.remove),
        ]

    async def every(self, request: web.Request) -> web.Response:
        """List."""
        return _json({"images": await self._shelf.every(_owner(request))})

    async def usage(self, request: web.Request) -> web.Response:
        """Count what the workspace has, and say how the store is."""
        owner = _owner(request)
        own = await self._shelf.digests(owner)
        store = {
            "bytes_max": self._bytes_max or None,
            "evicted": keeping.shown(self._keeper.last),
            "scrub": watching.shown(await self._watcher.progress(), own),
        }
        return _json({"workspace": await self._shelf.usage(owner), "store": store})

    async def show(self, request: web.Request) -> web.Response:
        """Look into one."""
        return _json(await self._shelf.show(_owner(request), request.match_info["image"]))

    async def diff(self, request: web.Request) -> web.Response:
        """Compare two."""
        names = request.match_info
        return _json(await self._shelf.diff(_owner(request), names["image"], names["other"]))

    async def remove(self, request: web.Request) -> web.Response:
        """Give one up."""
        gone = await self._shelf.remove(_owner(request), request.match_info["image"])
        return _json({"image_digest": gone, "removed": True})

    async def prune(self, request: web.Request) -> web.Response:
        """Give up what nothing needs and nobody used for ?older_than_s=; ?dry_run=1 only says what."""
        dry = request.query.get("dry_run", "0") == "1"
        older = _seconds(request.query.get("older_than_s", "0"))
        return _json(
            {"images": await self._shelf.prune(_owner(request), older, dry=dry), "dry_run": dry}
        )


def _owner(request: web.Request) -> WorkspaceId:
    text = request.headers.get(WORKSPACE_HEADER)
    if text is None:
        raise InvalidRequestError("request.invalid", f"say whose images, in {WORKSPACE_HEADER}")
    return WorkspaceId(check_token(text))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= OLDER_THAN_S_MAX:
        raise InvalidRequestError(
            "request.invalid", f"older_than_s is 0 to {OLDER_THAN_S_MAX:.0f}, not {text[:40]!r}"
        )
    return seconds


def _json(value: object) -> web.Response:
    return web.Response(body=_ENCODER.encode(value), content_type="application/json")
