"""Read what a shared bucket keeps, in the order of the paths, and take away what is not what its name says.

The same as `scrubbing.py` for a directory; how far a pass is stands in the bucket, so that any replica goes on with
it. Blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog
from glowplug_contracts.errors import ContractError, NotFoundError
from glowplug_contracts.ids import Digest

from glowplug_imagecache.lacking import hurt_of, lost_of
from glowplug_imagecache.naming import BLOBS, CHUNKS, LEASED, WORKSPACES
from glowplug_imagecache.objects import is_digest
from glowplug_imagecache.places import Thing
from glowplug_imagecache.scrub import Check, Checked, Hurt, Progress
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.stock import Named, named_in

log = structlog.get_logger(__name__)

STATE: Final = "scrub.json"
_STATE_BYTES_MAX: Final = 64 * 1024 * 1024


class SharedScrubber:
    """The eyes of one bucket's scrub."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._bucket = store.bucket

    def load(self) -> Progress:
        """Return how far the last replica was; what can't be read begins anew."""
        data = self._bucket.get(STATE, _STATE_BYTES_MAX)
        try:
            return Progress() if data is None else msgspec.json.decode(data, type=Progress)
        except msgspec.MsgspecError as err:
            log.warning("scrub.forgotten", error=str(err))
            return Progress()

    def save(self, progress: Progress) -> None:
        """Remember that, for whoever goes on."""
        self._bucket.put(STATE, msgspec.json.encode(progress))

    def check(self, wanted: Check) -> Checked:
        """Check some objects, at least one if there is any."""
        files = size = 0
        after = wanted.after
        corrupt: list[str] = []
        for thing in self._things(wanted.after):
            after = thing.path
            files += 1
            size += thing.size
            if self._store.is_intact(thing.path) is False and self._store.take_away(thing.path):
                corrupt.append(thing.path)
            if size >= wanted.bytes_max:
                return Checked(after, files, size, tuple(corrupt), ended=False)
        return Checked(after, files, size, tuple(corrupt), ended=True)

    def assess(self, corrupt: tuple[str, ...]) -> tuple[Hurt, ...]:
        """Return every image that lacks something. `corrupt`: paths, manifests among them."""
        with self._bucket.whole():
            return self._assess(corrupt)

    def _assess(self, corrupt: tuple[str, ...]) -> tuple[Hurt, ...]:
        names = (_name(thing) for thing in self._bucket.walk(CHUNKS))
        there = {bytes.fromhex(name) for name in names if is_digest(name)}
        manifests: dict[Digest, Named] = {}
        for thing in self._bucket.walk(BLOBS):
            digest = Digest(_name(thing))
            with contextlib.suppress(NotFoundError, ContractError):  # evicted; no manifest
                manifests[digest] = named_in(self._store.blob(digest, wanted=False))
        lost = [digest for digest in lost_of(corrupt) if self._store.blob_size(digest) is None]
        return hurt_of(manifests, there, lost)

    def _things(self, after: str) -> Iterator[Thing]:
        """Yield objects that have digests for names, in order, after such a path."""
        for room in (BLOBS, CHUNKS, LEASED, WORKSPACES):
            # "0" is what comes after "/": all of this room sorts before it.
            if f"{room}0" <= after:
                continue
            begin = after if after.startswith(f"{room}/") else ""
            yield from (one for one in self._bucket.walk(room, begin) if is_digest(_name(one)))


def _name(thing: Thing) -> str:
    return thing.path.rpartition("/")[2]
