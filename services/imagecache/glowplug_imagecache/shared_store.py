"""The store in a bucket that all replicas share; the data directory is this one's cache, and may be lost.

Paths in the bucket are those of the directory store (`store.py`), and so are the promises: nothing is given out
that does not match its name, whole objects only, nothing of one workspace for another. What differs:

* Times are marks (`marks.py`). An object that is old is marked when somebody wants it; one that is young needs none.
* Removals are announced (`withdrawing.py`), so whoever marks or writes an object that was old or absent looks at those.
* That an object is here may be believed for MEMO_S without asking.

Everything here blocks: callers run it in threads.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import Digest, WorkspaceId, check_token
from glowplug_contracts.manifests import ChunkFrame

from glowplug_imagecache.cached import Cached
from glowplug_imagecache.marks import mark, mark_given_up, marks_of, wanted_at
from glowplug_imagecache.naming import BLOBS, CHUNKS, LEASED, WORKSPACES
from glowplug_imagecache.objects import KEPT_BYTES_MAX, raw_form, sealed, unsealed
from glowplug_imagecache.places import Thing
from glowplug_imagecache.ports import Objects
from glowplug_imagecache.store import (
    LEASE_GRACE_S,
    QUARANTINE_KEPT_S,
    Store,
    digest_of_file,
    mismatch,
)
from glowplug_imagecache.withdrawing import AUTHOR_DEAD_S, Withdrawals

log = structlog.get_logger(__name__)

QUARANTINE: Final = "quarantine"
MEMO_S: Final = 60.0
MEMO_MAX: Final = 200_000
# Chunks of a batch that are brought at once: a MiB each.
AHEAD: Final = 8
# More than that are looked up by a list of all.
HEADS_MAX: Final = 2000


class SharedStore(Store):
    """See the module.

    Args:
        root: this replica's directory.
        name: this replica's name.
        fresh_s: what was wanted within it needs no new mark; half of eviction's grace.
        cache_bytes_max: of the directory, but for what is in use.
    """

    def __init__(
        self,
        root: Path,
        bucket: Objects,
        name: str,
        *,
        free_bytes_min: int,
        blob_bytes_max: int,
        fresh_s: float,
        cache_bytes_max: int,
    ) -> None:
        super().__init__(root, free_bytes_min=free_bytes_min, blob_bytes_max=blob_bytes_max)
        self.bucket = bucket
        self.withdrawals = Withdrawals(bucket, name)
        self.cached = Cached(root / "cached", cache_bytes_max)
        self._blob_max = blob_bytes_max
        self._fresh_s = fresh_s
        self._memo: dict[str, float] = {}

    # -- Chunks ---------------------------------------------------------------------------------

    def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """See Store."""
        there = self._want([_chunk(digest) for digest in digests])
        return [digest for digest in digests if _chunk(digest) not in there]

    def put_chunks(self, frames: Sequence[ChunkFrame]) -> int:
        """See Store."""
        self.check_room(sum(len(frame.stored or b"") for frame in frames))
        wanted: dict[str, bytes] = {}
        for frame in frames:
            if frame.stored is None or raw_form(frame.digest, frame.stored) is None:
                raise mismatch(frame.digest)
            wanted[_chunk(frame.digest)] = sealed(frame.digest, frame.stored)
        there = self._want(list(wanted))
        new = [path for path in wanted if path not in there]
        self._write(new, lambda path: self.bucket.put(path, wanted[path]))
        for path in new:
            self._keep_cached(path, wanted[path])
        self._remember(new)
        return len(new)

    def chunk(self, digest: Digest) -> ChunkFrame:
        """See Store."""
        path = _chunk(digest)
        if (file := self.cached.find(path)) is not None:
            try:
                kept = file.read_bytes()
            except FileNotFoundError:
                kept = b""
            if (frame := unsealed(digest, kept)) is not None:
                return frame
            self.cached.drop(path)
        for _ in range(2):  # what went wrong on the way may come right
            found = self.bucket.get(path, KEPT_BYTES_MAX)
            if found is None:
                return ChunkFrame(digest, 0, None)
            if (frame := unsealed(digest, found)) is not None:
                self._keep_cached(path, found)
                return frame
        self.take_away(path)
        return ChunkFrame(digest, 0, None)

    def chunks(self, digests: Iterable[Digest]) -> Iterator[ChunkFrame]:
        """See Store. Where each is a request, several are asked for at a time."""
        left = iter(digests)
        while some := list(itertools.islice(left, AHEAD)):
            yield from self.bucket.each(self.chunk, some)

    def chunk_sizes(self, digests: Iterable[Digest]) -> dict[Digest, int]:
        """See Store."""
        paths = {_chunk(digest): digest for digest in digests}
        return {paths[path]: one.size for path, one in self._look(list(paths), CHUNKS).items()}

    # -- Blobs ----------------------------------------------------------------------------------

    def blob_size(self, digest: Digest, owner: WorkspaceId | None = None) -> int | None:
        """See Store."""
        for room in (BLOBS, LEASED):
            if (found := self.bucket.head(_blob(room, digest, owner))) is not None:
                return found.size
        return None

    def blob_path(
        self, digest: Digest, owner: WorkspaceId | None = None, *, wanted: bool = True
    ) -> Path:
        """See Store."""
        for room in (BLOBS, LEASED):
            path = _blob(room, digest, owner)
            there = self._want([path]) if wanted and room == BLOBS else self.bucket.head(path)
            if there and (file := self._bring(path, digest)) is not None:
                return file
        raise NotFoundError("blob.not_found", f"no blob {digest} is kept here")

    def used_at(self, digest: Digest, owner: WorkspaceId | None = None) -> float | None:
        """See Store."""
        return self.time_of(_blob(BLOBS, digest, owner))

    def disown(self, digest: Digest, now: float) -> None:
        """See Store."""
        path = _blob(BLOBS, digest)
        at = self.time_of(path)
        if at is not None and at <= now:
            self.bucket.put(mark_given_up(path, now), b"")
            self._memo.pop(path, None)

    def kept_bytes(self, owner: WorkspaceId) -> int:
        """See Store."""
        return sum(one.size for one in self.bucket.walk(f"{WORKSPACES}/{check_token(owner)}"))

    def extend(self, digest: Digest, keep_until: float, owner: WorkspaceId | None = None) -> bool:
        """See Store."""
        return any(self._want([_blob(room, digest, owner)], keep_until) for room in (BLOBS, LEASED))

    def keep(self, digest: Digest, owner: WorkspaceId | None = None) -> bool:
        """See Store."""
        leased, kept = _blob(LEASED, digest, owner), _blob(BLOBS, digest, owner)
        if self.bucket.head(leased) is not None:
            self._write([kept], lambda path: self.bucket.copy(leased, path))
            self.bucket.delete([leased])
        return bool(self._want([kept]))

    def adopt(
        self,
        temporary: Path,
        digest: Digest,
        keep_until: float | None,
        owner: WorkspaceId | None,
    ) -> None:
        """See Store."""
        leased, kept = _blob(LEASED, digest, owner), _blob(BLOBS, digest, owner)
        path = kept if keep_until is None else leased
        if keep_until is not None and self.extend(digest, keep_until, owner):
            return
        self._write([path], lambda path: self._upload(path, temporary))
        until = keep_until or self.time_of(leased) or 0.0
        if until > time.time():
            self._mark([path], until)
        if keep_until is None:
            self.bucket.delete([leased])
        self.cached.adopt(temporary, path)
        self._remember([path])

    # -- Order ----------------------------------------------------------------------------------

    def sweep(self, now: float) -> int:
        """Keep this replica's directory in order; leases are `sweep_leases`' matter."""
        self.sweep_temporary(now)
        self.cached.trim()
        return 0

    def sweep_leases(self, now: float) -> int:
        """Remove what nobody keeps any more; return how many. One replica does it at a time."""
        with self.bucket.whole():
            return self._sweep_leases(now)

    def _sweep_leases(self, now: float) -> int:
        before = now - LEASE_GRACE_S
        self.withdrawals.forget(now - AUTHOR_DEAD_S)
        rotten = self.bucket.walk(QUARANTINE)
        self.bucket.delete([one.path for one in rotten if one.at < now - QUARANTINE_KEPT_S])
        leases = itertools.chain(self.bucket.walk(LEASED), self.bucket.walk(WORKSPACES))
        old = [one.path for one in leases if one.at < before and _is_leased(one.path)]
        expired = [path for path, at in self.times_of(old).items() if at < before]
        return len(self.withdrawals.remove(expired, lambda batch: self.older(batch, before)))

    def times_of(self, paths: Sequence[str]) -> dict[str, float]:
        """Return when each of the paths that are there was wanted last."""
        times = self.bucket.each(self.time_of, paths)
        return {path: at for path, at in zip(paths, times, strict=True) if at is not None}

    def time_of(self, path: str) -> float | None:
        """Return when it was wanted last, or until when it is leased; None if it is not here."""
        # Marks first: one that comes between the two is of somebody who looks at withdrawals after.
        marks = [one.path for one in self.bucket.walk(marks_of(path))]
        found = self.bucket.head(path)
        return None if found is None else wanted_at(found.at, marks)

    def older(self, paths: Sequence[str], before: float) -> list[str]:
        """Return those that are there and were not wanted since."""
        return [path for path, at in self.times_of(paths).items() if at < before]

    def take_away(self, path: str) -> bool:
        """Quarantine what is not what its name says, if it still is not. Return whether it was."""

        def still_corrupt(batch: Sequence[str]) -> list[str]:
            return [one for one in batch if self.is_intact(one) is False]

        log.error("object.corrupt", path=path)
        self.bucket.copy(path, f"{QUARANTINE}/{path.rpartition('/')[2]}")
        self.cached.drop(path)
        self._memo.pop(path, None)
        return bool(self.withdrawals.remove([path], still_corrupt))

    def is_intact(self, path: str) -> bool | None:
        """Read an object where it is kept, every copy of it; None if it is not there."""
        return self.bucket.intact(path, max(self._blob_max, KEPT_BYTES_MAX))

    # -- Objects --------------------------------------------------------------------------------

    def _want(self, paths: Sequence[str], until: float = 0.0) -> set[str]:
        """Say that these are wanted now, or until a later time; return those that are here."""
        now = time.time()
        known = {path for path in paths if not until and self._memo.get(path, 0.0) > now}
        unknown = [path for path in dict.fromkeys(paths) if path not in known]
        found = self._look(unknown, CHUNKS)
        old = [path for path in found if until or not self._is_fresh(found[path], now)]
        if old:
            self._mark(old, max(until, now))
            removed = [path for path in self.withdrawals.settle(old) if not self.bucket.head(path)]
            for path in removed:
                del found[path]
        self._remember(found)
        return known | found.keys()

    def _is_fresh(self, found: Thing, now: float) -> bool:
        if found.path.startswith(f"{CHUNKS}/"):  # which nobody gives up
            return found.at >= now - self._fresh_s
        return (self.time_of(found.path) or 0.0) >= now - self._fresh_s

    def _look(self, paths: Sequence[str], folder: str) -> dict[str, Thing]:
        """Return what is there; many of one folder by a list of it."""
        if len(paths) > HEADS_MAX:
            wanted = set(paths)
            return {one.path: one for one in self.bucket.walk(folder) if one.path in wanted}
        found = self.bucket.each(self.bucket.head, paths) if paths else []
        return {one.path: one for one in found if one is not None}

    def _mark(self, paths: Sequence[str], until: float) -> None:
        self.bucket.each(lambda path: self.bucket.put(mark(path, until), b""), paths)

    def _write(self, paths: Sequence[str], put: Callable[[str], object]) -> None:
        """Write objects that were not there, again if an old removal meets them."""
        while paths:
            self.bucket.each(put, paths)
            met = self.withdrawals.settle(paths)
            paths = [path for path in met if self.bucket.head(path) is None]

    def _upload(self, path: str, temporary: Path) -> None:
        with temporary.open("rb") as file:
            self.bucket.put(path, file)

    def _bring(self, path: str, digest: Digest) -> Path | None:
        """Return a verified file of a blob, from the cache or the bucket."""
        if (file := self.cached.find(path)) is not None:
            try:
                if digest_of_file(file) == digest:
                    return file
            except FileNotFoundError:
                pass
            self.cached.drop(path)
        for _ in range(2):
            descriptor, temporary = self.temporary()
            try:
                with os.fdopen(descriptor, "w+b") as opened:
                    there = self.bucket.fetch(path, opened, self._blob_max)
                if not there:
                    return None
                if digest_of_file(temporary) == digest:
                    return self.cached.adopt(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        self.take_away(path)
        return None

    def _keep_cached(self, path: str, data: bytes) -> None:
        descriptor, temporary = self.temporary()
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        self.cached.adopt(temporary, path)

    def _remember(self, paths: Iterable[str]) -> None:
        if len(self._memo) > MEMO_MAX:
            self._memo.clear()
        until = time.time() + min(MEMO_S, self._fresh_s)
        self._memo.update((path, until) for path in paths)


def _is_leased(path: str) -> bool:
    return LEASED in (path.split("/", maxsplit=1)[0], *path.split("/")[2:3])


def _chunk(digest: Digest) -> str:
    return f"{CHUNKS}/{digest[:2]}/{digest}"


def _blob(room: str, digest: Digest, owner: WorkspaceId | None = None) -> str:
    rooms = "" if owner is None else f"{WORKSPACES}/{check_token(owner)}/"
    return f"{rooms}{room}/{digest[:2]}/{digest}"
