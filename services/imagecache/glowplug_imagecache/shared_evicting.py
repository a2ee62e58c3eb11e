"""The hands of eviction in a shared bucket: look at it and remove from it what the machine of `eviction.py` decides.

The same as `evicting.py` for a directory. What is in the hands of a replica that died was either removed or not, so
there is nothing to put back. Marks that say nothing any more are removed on the way. Blocks.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import Digest, WorkspaceId

from glowplug_imagecache.evicting import read_named
from glowplug_imagecache.eviction import DropImages, DropTrees, Sweep, Swept
from glowplug_imagecache.marks import MARKS, marked, superseded, wanted_at
from glowplug_imagecache.naming import BLOBS, CHUNKS, WORKSPACES
from glowplug_imagecache.objects import is_digest
from glowplug_imagecache.places import Thing
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.stock import ManifestSeen, Named, ObjectSeen, SourceSeen, Stock, stock_of

# Marks of what is not there: it may be written later than its mark was, but not by a day.
ORPHANS_KEPT_S: Final = 86_400.0


class SharedEvictor:
    """The hands of one bucket's eviction."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._bucket = store.bucket

    def recover(self) -> None:
        """Do nothing: see the module."""

    def look(self) -> Stock:
        """Return what there is. Raises: UnavailableError where that can't be known."""
        with self._bucket.whole():
            return self._look()

    def _look(self) -> Stock:
        # Objects first: one that comes later is not in the stock, so it is not swept.
        objects = list(self._things(CHUNKS))
        sources = [one for one in self._things(WORKSPACES) if _owner(one.path) is not None]
        blobs = list(self._things(BLOBS))
        marks: defaultdict[str, list[str]] = defaultdict(list)
        for one in self._bucket.walk(MARKS):
            if (found := marked(one.path)) is not None:
                marks[found[0]].append(one.path)

        def used_at(thing: Thing) -> float:
            return wanted_at(thing.at, marks.get(thing.path, ()))

        stock = stock_of(
            [ObjectSeen(bytes.fromhex(_name(one)), one.size, used_at(one)) for one in objects],
            [
                SourceSeen(
                    owner=WorkspaceId(_owner(one.path) or ""),
                    digest=Digest(_name(one)),
                    used_at=used_at(one),
                    size=one.size,
                )
                for one in sources
            ],
            [
                ManifestSeen(
                    digest=Digest(_name(one)),
                    used_at=used_at(one),
                    size=one.size,
                    named=self._read(Digest(_name(one))),
                )
                for one in blobs
            ],
        )
        self._tidy(marks, {one.path for one in (*objects, *sources, *blobs)})
        return stock

    def drop_images(self, decided: DropImages) -> frozenset[Digest]:
        """Remove manifests that nobody used since; return which are gone."""
        return self._drop([one.digest for one in decided.images], decided.unused_since)

    def drop_trees(self, decided: DropTrees) -> frozenset[Digest]:
        """Remove trees' manifests that nobody used since; return which are gone."""
        return self._drop(decided.trees, decided.unused_since)

    def sweep(self, decided: Sweep) -> Swept:
        """Remove objects and sources that nobody touched since; return how much is gone."""
        paths = [_at(CHUNKS, digest.hex()) for digest in decided.objects]
        paths += [_at(f"{WORKSPACES}/{one.owner}/{BLOBS}", one.digest) for one in decided.sources]
        sizes = dict.fromkeys(paths, 0)
        for thing in self._bucket.each(self._bucket.head, paths) if paths else ():
            if thing is not None:
                sizes[thing.path] = thing.size
        gone = self._remove(paths, decided.untouched_since)
        return Swept(len(gone), sum(sizes[path] for path in gone))

    def _drop(self, manifests: Iterable[Digest], before: float) -> frozenset[Digest]:
        paths = {_at(BLOBS, digest): digest for digest in manifests}
        return frozenset(paths[path] for path in self._remove(list(paths), before))

    def _remove(self, paths: list[str], before: float) -> list[str]:
        store = self._store
        gone = store.withdrawals.remove(paths, lambda batch: store.older(batch, before))
        for path in gone:
            store.cached.drop(path)
        return gone

    def _read(self, digest: Digest) -> Named | None:
        try:
            return read_named(digest, self._store.blob(digest, wanted=False))
        except NotFoundError:  # quarantined just now
            return Named(objects=frozenset())

    def _tidy(self, marks: dict[str, list[str]], there: set[str]) -> None:
        before = time.time() - ORPHANS_KEPT_S
        idle: set[str] = set()
        for path, names in marks.items():
            idle |= superseded(names)
            if path not in there:
                found = [(name, marked(name)) for name in names]
                idle.update(name for name, one in found if one is not None and one[1] < before)
        if idle:
            self._bucket.delete(sorted(idle))

    def _things(self, folder: str) -> Iterator[Thing]:
        return (one for one in self._bucket.walk(folder) if is_digest(_name(one)))


def _name(thing: Thing) -> str:
    return thing.path.rpartition("/")[2]


def _at(folder: str, digest: str) -> str:
    return f"{folder}/{digest[:2]}/{digest}"


def _owner(path: str) -> str | None:
    """Return whose kept blob this is; None for one that is leased."""
    parts = path.split("/")
    return parts[1] if parts[2:3] == [BLOBS] else None
