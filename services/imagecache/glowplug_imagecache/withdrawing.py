"""Remove objects from a bucket that others may want at the same moment.

Nobody can rename there, so a removal is announced first: an object in WITHDRAWN lists the paths, then each is looked
at once more, then removed, then the list. Who wants something that was old, or writes it anew, looks at the lists
afterwards: either their mark was there before the second look, and it stays, or they see the list, wait until it is
gone and look whether theirs still is. A list whose author died counts for AUTHOR_DEAD_S, longer than any author works
on one. Blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
import structlog

from glowplug_imagecache.places import RETRY_S, TIMEOUT_S
from glowplug_imagecache.ports import Objects

log = structlog.get_logger(__name__)

WITHDRAWN: Final = "withdrawn"
BATCH: Final = 200
# An author who needs longer for the second look removes nothing.
LOOK_S: Final = 20.0
AUTHOR_DEAD_S: Final = LOOK_S + 2 * (RETRY_S + TIMEOUT_S)
POLL_S: Final = 0.1
_LIST_BYTES_MAX: Final = 1024 * 1024
_DECODER: Final = msgspec.json.Decoder(list[str])


class Withdrawals:
    """See the module. `name` is this replica's: no other one may write its lists."""

    def __init__(
        self, bucket: Objects, name: str, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._number = 0
        self._wait = wait

    def remove(
        self, paths: Sequence[str], may_go: Callable[[Sequence[str]], list[str]]
    ) -> list[str]:
        """Remove those of the paths that `may_go` returns when it looks again; return them."""
        gone: list[str] = []
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            self._number += 1
            announced = f"{WITHDRAWN}/{self._name}-{self._number}"
            self._bucket.put(announced, msgspec.json.encode(list(batch)))
            began = time.monotonic()
            going = may_go(batch)
            if time.monotonic() - began < LOOK_S:
                self._bucket.delete(going)
                gone += going
            # If this fails, the list stays and holds others up for a while, which harms nobody.
            self._bucket.delete([announced])
        return gone

    def settle(self, paths: Collection[str]) -> set[str]:
        """Return those of the paths that somebody was removing, when they are through with it."""
        wanted, named = set(paths), set[str]()
        first_seen: dict[str, float] = {}
        while True:
            busy = False
            for thing in self._bucket.walk(WITHDRAWN):
                since = first_seen.setdefault(thing.path, time.monotonic())
                if time.monotonic() - since < AUTHOR_DEAD_S and (
                    hit := self._on(thing.path, wanted)
                ):
                    named |= hit
                    busy = True
            if not busy:
                return named
            self._wait(POLL_S)

    def forget(self, before: float) -> None:
        """Remove lists of authors that died, written before that."""
        dead = [thing.path for thing in self._bucket.walk(WITHDRAWN) if thing.at < before]
        if dead:
            log.info("withdrawn.forgotten", lists=len(dead))
            self._bucket.delete(dead)

    def _on(self, path: str, wanted: set[str]) -> set[str]:
        data = self._bucket.get(path, _LIST_BYTES_MAX)
        return set() if data is None else wanted & set(_DECODER.decode(data))
