"""Which workers have a tree and give its objects out: told to workers that are about to fetch it.

A hint, made of beats: whoever is named may be gone, or lie, and the worker that asks checks and comes back here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web
from glowplug_contracts.codec import encode
from glowplug_contracts.ids import Digest, check_digest
from glowplug_contracts.manifests import PEERS_TOLD_MAX
from glowplug_contracts.messages.worker import WorkerBeat


class TreePeers:
    """See the module.

    Args:
        beats: of the workers that live.
        urls: where workers answer, by their names.
    """

    def __init__(
        self, beats: Callable[[], Iterable[WorkerBeat]], urls: Callable[[], Mapping[str, str]]
    ) -> None:
        self._beats = beats
        self._urls = urls
        self._turns = itertools.count()

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to the application."""
        return [web.get("/trees/{digest}/peers", self._on_get, allow_head=False)]

    def of(self, tree: Digest) -> list[str]:
        """Return where to ask for a tree's objects: others first each time, so that the work is shared."""
        urls = self._urls()
        having = sorted(
            urls[beat.worker_id]
            for beat in self._beats()
            if tree in beat.trees and urls.get(beat.worker_id)
        )
        at = next(self._turns) % len(having) if having else 0
        return (having[at:] + having[:at])[:PEERS_TOLD_MAX]

    async def _on_get(self, request: web.Request) -> web.Response:
        tree = check_digest(request.match_info["digest"])
        body = encode(self.of(tree), "msgpack")
        return web.Response(body=body, content_type="application/msgpack")
