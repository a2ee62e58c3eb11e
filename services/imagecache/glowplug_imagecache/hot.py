"""What starts of a tree are known to read, in order: a list of objects beside the tree's manifest.

    hot/ab/<digest>   the list, as msgpack; the name is the tree's

Workers write it after a first start and ask for it before the next one. It is a hint: a wrong or lost list makes
a start slower, and nothing else; so each replica has its own. A list goes when its tree's manifest is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from aiohttp import web
from glowplug_contracts.errors import ContractError, InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, check_digest
from glowplug_contracts.manifests import HOT_OBJECTS_MAX, decode_digests, encode_digests

from glowplug_imagecache.store import Store


class HotLists:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._root = store.root / "hot"
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to the application."""
        return [
            web.get("/trees/{digest}/hot", self._on_get, allow_head=False),
            web.put("/trees/{digest}/hot", self._on_put),
        ]

    def get(self, tree: Digest) -> list[Digest]:
        """Return a tree's list; empty where none is kept, or what is there is none."""
        try:
            return decode_digests(self._at(tree).read_bytes())
        except (OSError, ContractError, InvalidRequestError):
            return []

    def put(self, tree: Digest, objects: list[Digest]) -> None:
        """Keep a tree's list, in the place of the last one. Raises: InvalidRequestError, NotFoundError."""
        if len(objects) > HOT_OBJECTS_MAX:
            raise InvalidRequestError(
                "request.too_large", f"{len(objects)} objects; at most {HOT_OBJECTS_MAX} are kept"
            )
        if self._store.blob_size(tree) is None:
            raise NotFoundError("blob.not_found", f"no tree {tree} is kept here")
        path = self._at(tree)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file, new = self._store.temporary()
        with os.fdopen(file, "wb") as opened:
            opened.write(encode_digests(objects))
        new.replace(path)

    async def tick(self) -> None:
        """Sweep once."""
        await asyncio.to_thread(self.sweep)

    def sweep(self) -> int:
        """Remove the lists of trees that are gone; return how many."""
        removed = 0
        for path in self._root.glob("*/*"):
            if not self._has_tree(path.name):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    removed += 1
        return removed

    def _has_tree(self, name: str) -> bool:
        try:
            return self._store.blob_size(check_digest(name)) is not None
        except InvalidRequestError:
            return False

    def _at(self, tree: Digest) -> Path:
        return self._root / tree[:2] / tree

    async def _on_get(self, request: web.Request) -> web.Response:
        tree = check_digest(request.match_info["digest"])
        found = await asyncio.to_thread(self.get, tree)
        return web.Response(body=encode_digests(found), content_type="application/msgpack")

    async def _on_put(self, request: web.Request) -> web.Response:
        tree = check_digest(request.match_info["digest"])
        await asyncio.to_thread(self.put, tree, decode_digests(await request.read()))
        return web.Response(status=201)
