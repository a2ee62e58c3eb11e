"""A source that first looks into the trees that are served beside: what two images share is fetched once for a host.

What it reads there is compared with its name before it is given out, so that a tree whose content was hurt costs its
neighbours a request, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest

from glowplug_worker.images.mounts.sources import TreeSource
from glowplug_worker.images.objects import digest_of

log = structlog.get_logger()


class Place(NamedTuple):
    """Where an object goes."""

    file: int
    offset: int
    size: int
    digest: Digest


class Neighbour(Protocol):
    """A tree that is served here."""

    def place_of(self, digest: Digest) -> Place | None:
        """Return where it has an object, if that is there."""


class Beside:
    """See the module.

    Args:
        source: asked for what no neighbour has.
        neighbours: says which trees are served now.
    """

    def __init__(self, source: TreeSource, neighbours: Callable[[], Iterable[Neighbour]]) -> None:
        self._source, self._neighbours = source, neighbours

    async def manifest(self, digest: Digest) -> bytes:
        """Return a manifest. Raises: NotFoundError, UnavailableError."""
        return await self._source.manifest(digest)

    async def fetch(self, digests: Sequence[Digest]) -> Iterable[tuple[Digest, bytes]]:
        """Return objects, of neighbours and of the source. Raises: as the source, if no neighbour has any."""
        places = self._places(digests)
        found = await asyncio.to_thread(_read, places) if places else {}
        left = [digest for digest in digests if digest not in found]
        if not left:
            return found.items()
        try:
            fetched = await self._source.fetch(left)
        except PlatformError as error:
            if not found:
                raise
            log.warning("objects.missed", error=str(error), count=len(left))
            return found.items()
        return itertools.chain(found.items(), fetched)

    def _places(self, digests: Sequence[Digest]) -> dict[Digest, Place]:
        neighbours = list(self._neighbours())
        found: dict[Digest, Place] = {}
        for digest in digests:
            for neighbour in neighbours:
                if (place := neighbour.place_of(digest)) is not None:
                    found[digest] = place
                    break
        return found


def is_hole(place: Place) -> bool:
    """Return whether nothing is at a place: a question to the file system, which costs no reading."""
    try:
        return os.lseek(place.file, place.offset, os.SEEK_DATA) >= place.offset + place.size
    except OSError:  # nothing but a hole from there on, or its tree is not served any more
        return True


def read_verified(place: Place) -> bytes | None:
    """Return what is at a place if it is what its name says. Blocks. Holes are nothing."""
    if is_hole(place):
        return None
    try:
        data = os.pread(place.file, place.size, place.offset)
    except OSError:  # its tree is not served any more
        return None
    return data if digest_of(data) == place.digest else None


def _read(places: Mapping[Digest, Place]) -> dict[Digest, bytes]:
    found: dict[Digest, bytes] = {}
    for digest, place in places.items():
        if (data := read_verified(place)) is not None:
            found[digest] = data
    return found
