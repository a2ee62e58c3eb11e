"""One tree that is served: performs what its `Filling` decides, on two files and a source."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import BLOCK_BYTES, FlatTree, StoredObject

from glowplug_worker.images.erofs import Device, place_objects
from glowplug_worker.images.mounts import filling
from glowplug_worker.images.mounts.daemon.beside import Place, is_hole, read_verified
from glowplug_worker.images.mounts.filling import Fetch, Filled, Filling, Why
from glowplug_worker.images.mounts.sources import TreeSource
from glowplug_worker.images.mounts.wire import Answer, Need
from glowplug_worker.images.objects import digest_of

log = structlog.get_logger()

# What a source may raise or refuse beside "not now" is no reason to end: the next try may go elsewhere.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Served:
    """See the module.

    Args:
        base: the number of the packs' device; the pieces' is the next one.
        files: the devices' files, open for writing since before anybody waited for them.
        say: takes each answer for the holder.
        told: takes the tickets of prefetches that are over.
        filled: is called when everything is there.
    """

    def __init__(
        self,
        base: int,
        tree: FlatTree,
        files: tuple[int, int],
        source: TreeSource,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        say: Callable[[Answer], None],
        told: Callable[[int], None],
        filled: Callable[[], None],
    ) -> None:
        self._base, self._files, self._source, self._spawn = base, files, source, spawn
        self._say, self._told, self._filled = say, told, filled
        self._devices = (place_objects(tree.packs), place_objects(tree.pieces))
        self._first = (0, len(tree.packs))
        self._places = places_of(tree, files)
        self._numbers = {place.digest: number for number, place in enumerate(self._places)}
        sizes = [place.size for place in self._places]
        tables = range(len(tree.packs)), range(len(tree.packs), len(sizes))
        self._filling = Filling(sizes, tables, time.monotonic())
        self._prefetches: dict[int, Sequence[int]] = {}
        self._needs: dict[int, tuple[Need, int, int]] = {}
        self._fetching = 0
        self._closed = False

    def numbers_of(self, digests: Iterable[Digest]) -> list[int]:
        """Return the objects of a list; those of other trees are left out."""
        return [self._numbers[digest] for digest in digests if digest in self._numbers]

    def place_of(self, digest: Digest) -> Place | None:
        """Return where an object is, if it is there: for trees that are served beside."""
        number = self._numbers.get(digest)
        if number is None or self._closed or not self._filling.there(number):
            return None
        return self._places[number]

    def recorded(self) -> list[Digest]:
        """Return what was read, in the order in which it was first read."""
        return [self._places[number].digest for number in self._filling.read]

    def need(self, need: Need) -> None:
        """A reader waits."""
        device = self._devices[need.device - self._base]
        first = self._first[need.device - self._base]
        numbers = device.numbers_in(need.offset, min(need.size, device.size))
        objects = range(first + numbers.start, first + numbers.stop)
        start = self._places[objects[0]].offset if objects else 0
        end = self._places[objects[-1]].offset + self._places[objects[-1]].size if objects else 0
        self._needs[need.ticket] = (need, start, end + -end % BLOCK_BYTES)
        self._act(self._filling.needed(need.ticket, objects, time.monotonic()))

    def prefetch(self, ticket: int, objects: Sequence[int]) -> None:
        """Get these before anybody asks; `told` says when. The holder then lets readers of them go on by itself."""
        self._prefetches[ticket] = objects
        self._act(self._filling.prefetch(ticket, objects, time.monotonic()))

    def tick(self) -> None:
        """Time has passed."""
        self._act(self._filling.passed(time.monotonic()))

    def close(self) -> None:
        """It is not served any more."""
        self._act(self._filling.forget())
        self._closed = True
        self._close_files()

    def _close_files(self) -> None:
        """Close the files, unless something is still written to them: their numbers would soon be others'."""
        if self._closed and not self._fetching:
            for file in self._files:
                os.close(file)

    def _act(self, decisions: Iterable[filling.Decision]) -> None:
        for decision in decisions:
            if self._closed:
                continue
            if isinstance(decision, Fetch):
                self._fetching += 1
                self._spawn(self._fetch(decision.objects))
            elif isinstance(decision, Filled):
                self._filled()
            elif decision.ticket < 0:
                self._say_there(self._prefetches.pop(decision.ticket))
                self._told(decision.ticket)
            else:
                need, start, end = self._needs.pop(decision.ticket)
                there = (0, 0) if decision.error else (start, end)
                self._say(Answer(need.ticket, decision.error, need.device, *there))

    def _say_there(self, objects: Sequence[int]) -> None:
        """Tell the holder, though nobody waits for it."""
        for number in filter(self._filling.there, objects):
            place, in_pieces = self._places[number], number >= self._first[1]
            end = place.offset + place.size
            self._say(Answer(0, 0, self._base + in_pieces, place.offset, end + -end % BLOCK_BYTES))

    async def _fetch(self, objects: Sequence[int]) -> None:
        left = set(objects)
        try:
            written = [number for number in objects if not is_hole(self._places[number])]
            if written:
                left -= self._arrived(await asyncio.to_thread(self._already, written))
            if left:
                digests = sorted({self._places[number].digest for number in left})
                found = await self._source.fetch(digests)
                good, bad, full = await asyncio.to_thread(self._keep, left, found)
                left -= self._arrived(good) | set(bad) | set(full)
                self._missed(bad, "lie")
                self._missed(full, "full")
        except PlatformError as error:
            log.warning("objects.missed", error=str(error), count=len(left))
        finally:
            self._missed(sorted(left), "away")
            self._act(self._filling.ended(time.monotonic()))
            self._fetching -= 1
            self._close_files()

    def _arrived(self, objects: Sequence[int]) -> set[int]:
        self._act(self._filling.arrived(objects, time.monotonic()))
        return set(objects)

    def _missed(self, objects: Sequence[int], why: Why) -> None:
        if objects and why != "away":
            log.warning("objects.refused", why=why, first=self._places[objects[0]].digest)
        self._act(self._filling.missed(objects, why, time.monotonic()))

    def _already(self, objects: Sequence[int]) -> list[int]:
        """Return what an earlier daemon has written whole."""
        return [number for number in objects if read_verified(self._places[number]) is not None]

    def _keep(
        self, wanted: set[int], found: Iterable[tuple[Digest, bytes]]
    ) -> tuple[list[int], list[int], list[int]]:
        """Verify, then write; return what is there, what is not what its name says, what had no room."""
        by_digest: dict[Digest, list[int]] = {}
        for number in sorted(wanted):
            by_digest.setdefault(self._places[number].digest, []).append(number)
        good: list[int] = []
        bad: list[int] = []
        full: list[int] = []
        for digest, data in found:
            numbers = by_digest.pop(digest, ())
            for number in numbers:
                place = self._places[number]
                if len(data) != place.size or digest_of(data) != digest:
                    bad.append(number)
                    continue
                try:
                    _write(place, data)
                    good.append(number)
                except OSError as error:
                    (full if error.errno in _FULL else bad).append(number)
        return good, bad, full


def _write(place: Place, data: bytes) -> None:
    rest, at = memoryview(data), place.offset
    while rest:
        count = os.pwrite(place.file, rest, at)
        rest, at = rest[count:], at + count


def places_of(tree: FlatTree, files: tuple[int, int]) -> list[Place]:
    """Return where a tree's objects are in its devices: packs first, then pieces."""
    return [
        *_places(files[0], place_objects(tree.packs), tree.packs),
        *_places(files[1], place_objects(tree.pieces), tree.pieces),
    ]


def _places(file: int, device: Device, objects: Sequence[StoredObject]) -> list[Place]:
    return [
        Place(file, device.offset_of(number), each.size, Digest(each.digest.hex()))
        for number, each in enumerate(objects)
    ]
