"""What starts of a tree are known to read: which list is kept, and where.

`merge` decides. A list is a hint: losing it costs a start time, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import HOT_OBJECTS_MAX

from glowplug_worker.images.client import StoreClient


class HotLists(Protocol):
    """Where the lists of all workers are."""

    async def get(self, tree: Digest) -> list[Digest]:
        """Return a tree's list; empty where there is none. Raises: PlatformError."""

    async def put(self, tree: Digest, objects: Sequence[Digest]) -> None:
        """Keep a tree's list in the place of the last one. Raises: PlatformError."""


class NoHotLists:
    """Nothing is known, and nothing is kept."""

    async def get(self, tree: Digest) -> list[Digest]:  # noqa: ARG002 - of the protocol
        """Return none."""
        return []

    async def put(self, tree: Digest, objects: Sequence[Digest]) -> None:
        """Keep none."""


class ImagecacheHotLists:
    """Beside the tree's manifest, in imagecache."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def get(self, tree: Digest) -> list[Digest]:
        """Return a tree's list."""
        return await self._client.get_hot(tree)

    async def put(self, tree: Digest, objects: Sequence[Digest]) -> None:
        """Keep a tree's list."""
        await self._client.put_hot(tree, objects)


def merge(known: Sequence[Digest], read: Sequence[Digest]) -> list[Digest] | None:
    """Return the list to keep after a start that had `known` and then waited for `read`; None = as it was.

    What is known stays in front, in its order: other programs on the same tree have read it, and nobody is told of
    reads of what is there. Where the list is full, later starts add nothing.
    """
    found = list(dict.fromkeys((*known, *read)))[:HOT_OBJECTS_MAX]
    return found if len(found) > len(known) else None
