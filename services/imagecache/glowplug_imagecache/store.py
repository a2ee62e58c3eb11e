"""The content-addressed directory: chunks, blobs that stay, and blobs that a call leased.

    chunks/ab/<digest>   one zstd frame each, sealed (`objects.py`); the name is of the raw bytes
    blobs/ab/<digest>    raw, kept until evicted (manifests, sources, uploads of the SDK)
    leased/ab/<digest>   raw, kept until the file's modification time (arguments, results)
    workspaces/<name>/   `blobs` and `leased` of one workspace; those above are the platform's own
    quarantine/          what did not match its name, kept for whoever wants to know why
    doomed/              being evicted (`evicting.py`)
    tmp/                 being written

A chunk's or kept blob's modification time says when it was last put or asked for, or until when it is leased if
that is later: eviction leaves alone what is younger than its grace. Reading a chunk's bytes does not count.
Nothing gets a name before its bytes were verified and fsynced, and nothing is given out that does not
match its name: it is quarantined and reported as missing. Nothing of one workspace is there for another:
the same bytes are kept once for each, so that neither an answer nor its time tells who else has them.
Replicas on one host share the directory; each change is one rename. Everything here blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import blake3
import structlog
from glowplug_contracts.errors import InvalidRequestError, NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest, WorkspaceId, check_token
from glowplug_contracts.manifests import ChunkFrame

from glowplug_imagecache.objects import raw_form, sealed, unsealed

log = structlog.get_logger(__name__)

# A lease that has just run out may be extended by a caller who still saw the blob.
LEASE_GRACE_S = 60.0
# What a crash left half written. Longer than any upload takes.
TMP_KEPT_S = 6 * 3600.0
QUARANTINE_KEPT_S = 30 * 86_400.0


class Store:
    """One directory of chunks and blobs.

    Args:
        root: made if it is not there.
        free_bytes_min: uploads are refused while the disk has less free, so that a full cache never
            takes the broker's disk with it.
        blob_bytes_max: longer blobs are refused.
    """

    def __init__(self, root: Path, *, free_bytes_min: int, blob_bytes_max: int) -> None:
        self._root = root
        self._free_bytes_min = free_bytes_min
        self._blob_bytes_max = blob_bytes_max
        for room in ("chunks", "blobs", "leased", "workspaces", "quarantine", "doomed", "tmp"):
            (root / room).mkdir(parents=True, exist_ok=True, mode=0o700)

    # -- Chunks ---------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """Return the directory."""
        return self._root

    def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return those of the chunks that are not here. The others stay for eviction's grace."""
        return [digest for digest in digests if not _touch(self._at("chunks", digest))]

    def put_chunks(self, frames: Sequence[ChunkFrame]) -> int:
        """Store a batch; return how many were new. All are durable when this returns.

        Raises: InvalidRequestError (request.bad_digest) for a chunk that is not what it says; those
            before it may have been stored, which harms nobody.
        """
        self.check_room(sum(len(frame.stored or b"") for frame in frames))
        written: list[tuple[Path, Path]] = []
        try:
            for frame in frames:
                if frame.stored is None or raw_form(frame.digest, frame.stored) is None:
                    raise mismatch(frame.digest)
                target = self._at("chunks", frame.digest)
                if not _touch(target):
                    kept = sealed(frame.digest, frame.stored)
                    written.append((self._write_temporary(kept), target))
            self._name_all(written)
        finally:
            for temporary, _ in written:
                temporary.unlink(missing_ok=True)
        return len(written)

    def chunk(self, digest: Digest) -> ChunkFrame:
        """Return a verified chunk, with `stored` None if there is none that matches its name."""
        path = self._at("chunks", digest)
        try:
            kept = path.read_bytes()
        except FileNotFoundError:
            return ChunkFrame(digest, 0, None)
        frame = unsealed(digest, kept)
        if frame is None:
            self.quarantine(path)
            return ChunkFrame(digest, 0, None)
        return frame

    def chunks(self, digests: Iterable[Digest]) -> Iterator[ChunkFrame]:
        """Yield chunks as `chunk` returns them, in this order; lazily, a few ahead at most."""
        return map(self.chunk, digests)

    # -- Blobs ----------------------------------------------------------------------------------

    def blob_size(self, digest: Digest, owner: WorkspaceId | None = None) -> int | None:
        """Return a blob's size, or None if it is not here. Does not read it."""
        for room in ("blobs", "leased"):
            try:
                return self._at(room, digest, owner).stat().st_size
            except FileNotFoundError:
                continue
        return None

    def blob_path(
        self, digest: Digest, owner: WorkspaceId | None = None, *, wanted: bool = True
    ) -> Path:
        """Return the file of a blob whose bytes were just verified. Not `wanted`: somebody only looks.

        Raises: NotFoundError (blob.not_found): never stored, expired, or quarantined now.
        """
        for room in ("blobs", "leased"):
            path = self._at(room, digest, owner)
            if not (_touch(path) if wanted and room == "blobs" else path.exists()):
                continue
            try:
                intact = digest_of_file(path) == digest
            except FileNotFoundError:  # evicted just now
                continue
            if intact:
                return path
            self.quarantine(path)
        raise NotFoundError("blob.not_found", f"no blob {digest} is kept here")

    def blob(self, digest: Digest, *, wanted: bool = True) -> bytes:
        """Return a small blob's verified bytes (manifests). Raises: NotFoundError."""
        try:
            return self.blob_path(digest, wanted=wanted).read_bytes()
        except FileNotFoundError as err:  # evicted between the two
            raise NotFoundError("blob.not_found", f"no blob {digest} is kept here") from err

    def used_at(self, digest: Digest, owner: WorkspaceId | None = None) -> float | None:
        """Return when a kept blob was last wanted, or until when it is leased; None if it is not here."""
        return _time_of(self._at("blobs", digest, owner)) or None

    def disown(self, digest: Digest, now: float) -> None:
        """Let eviction have a kept blob at its next round, unless it is leased or wanted again."""
        path = self._at("blobs", digest)
        if _time_of(path) <= now:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (1.0, 1.0))

    def chunk_sizes(self, digests: Iterable[Digest]) -> dict[Digest, int]:
        """Return the stored bytes of those of the chunks that are here."""
        found: dict[Digest, int] = {}
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                found[digest] = self._at("chunks", digest).stat().st_size
        return found

    def kept_bytes(self, owner: WorkspaceId) -> int:
        """Return the bytes of all blobs of a workspace, leased ones too."""
        size = 0
        for room in ("blobs", "leased"):
            for shelf in _entries(self._root / "workspaces" / check_token(owner) / room):
                for path in _entries(shelf):
                    with contextlib.suppress(FileNotFoundError):
                        size += path.stat().st_size
        return size

    def add_blob(self, data: bytes) -> Digest:
        """Store bytes for ever; return their name."""
        digest = Digest(blake3.blake3(data).hexdigest())
        with self.open_upload(digest) as upload:
            upload.write(data)
            upload.finish(keep_until=None)
        return digest

    def open_upload(
        self, digest: Digest, size: int | None = None, owner: WorkspaceId | None = None
    ) -> Upload:
        """Return where a blob of this name is written to.

        Raises: InvalidRequestError (request.too_large), UnavailableError (the disk is nearly full).
        """
        self.check_size(size or 0)
        self.check_room(size or 0)
        return Upload(self, digest, owner)

    def check_size(self, size: int) -> None:
        """Raise InvalidRequestError (request.too_large) for a blob longer than may be kept."""
        if size > self._blob_bytes_max:
            raise InvalidRequestError(
                "request.too_large",
                f"a blob of {size} bytes; at most {self._blob_bytes_max} are kept",
            )

    def extend(self, digest: Digest, keep_until: float, owner: WorkspaceId | None = None) -> bool:
        """Keep a blob at least until then. Return whether the blob is here."""
        if _touch(self._at("blobs", digest, owner), keep_until):
            return True
        path = self._at("leased", digest, owner)
        try:
            until = max(path.stat().st_mtime, keep_until)
            os.utime(path, (until, until))
        except FileNotFoundError:
            return False
        return True

    def keep(self, digest: Digest, owner: WorkspaceId | None = None) -> bool:
        """Keep a leased blob until eviction finds that nobody needs it. Return whether it is here."""
        target = self._at("blobs", digest, owner)
        with contextlib.suppress(FileNotFoundError):
            self._name_all([(self._at("leased", digest, owner), target)])
        return _touch(target)

    def adopt(
        self,
        temporary: Path,
        digest: Digest,
        keep_until: float | None,
        owner: WorkspaceId | None,
    ) -> None:
        """Give a verified temporary file its name (Upload.finish only)."""
        if keep_until is None:
            kept, leased = self._at("blobs", digest, owner), self._at("leased", digest, owner)
            until = max(_time_of(path) for path in (temporary, kept, leased))
            os.utime(temporary, (until, until))
            self._name_all([(temporary, kept)])
            leased.unlink(missing_ok=True)
        elif not self.extend(digest, keep_until, owner):
            os.utime(temporary, (keep_until, keep_until))
            self._name_all([(temporary, self._at("leased", digest, owner))])

    def sweep(self, now: float) -> int:
        """Remove what nobody keeps any more; return how many. `now` is Unix time.

        Removal is a rename and a second look, so that a lease extended in between is put back.
        """
        removed = 0
        for path in self._leased():
            if not _expired(path, now - LEASE_GRACE_S):
                continue
            doomed = self._root / "tmp" / f"swept-{path.parents[2].name}-{path.name}"
            try:
                path.rename(doomed)
            except FileNotFoundError:  # another replica sweeps too
                continue
            if _expired(doomed, now - LEASE_GRACE_S):
                doomed.unlink(missing_ok=True)
                removed += 1
            else:
                doomed.rename(path)
        self.sweep_temporary(now)
        for path in (self._root / "quarantine").iterdir():
            if path.stat().st_ctime < now - QUARANTINE_KEPT_S:  # when it was put there
                path.unlink(missing_ok=True)
        return removed

    # -- The directory --------------------------------------------------------------------------

    def sweep_temporary(self, now: float) -> None:
        """Remove what a crash left half written."""
        for path in (self._root / "tmp").iterdir():
            if _expired(path, now - TMP_KEPT_S):
                path.unlink(missing_ok=True)

    def temporary(self) -> tuple[int, Path]:
        """Return a new file to write to: its descriptor and path."""
        descriptor, name = tempfile.mkstemp(dir=self._root / "tmp")
        return descriptor, Path(name)

    def quarantine(self, path: Path) -> None:
        """Take away a file that is not what its name says."""
        log.error("object.corrupt", path=str(path.relative_to(self._root)))
        with contextlib.suppress(FileNotFoundError):  # evicted, or quarantined by another replica
            path.rename(self._root / "quarantine" / path.name)

    def _leased(self) -> Iterator[Path]:
        for rooms in (self._root, *(self._root / "workspaces").iterdir()):
            for shelf in _entries(rooms / "leased"):
                yield from shelf.iterdir()

    def _at(self, room: str, digest: Digest, owner: WorkspaceId | None = None) -> Path:
        rooms = self._root if owner is None else self._root / "workspaces" / check_token(owner)
        return rooms / room / digest[:2] / digest

    def _write_temporary(self, data: bytes) -> Path:
        descriptor, path = self.temporary()
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return path

    def _name_all(self, written: Sequence[tuple[Path, Path]]) -> None:
        """Fsync, rename, fsync the directories: together, since one journal commit serves many."""
        for temporary, _ in written:
            _sync(temporary)
        for temporary, target in written:
            _make_shelf(target.parent)
            temporary.rename(target)
        for shelf in {target.parent for _, target in written}:
            _sync(shelf)

    def check_room(self, size: int) -> None:
        """Raise UnavailableError where so many bytes would fill the disk."""
        free = shutil.disk_usage(self._root).free
        if free - size < self._free_bytes_min:
            raise UnavailableError(
                "platform.unavailable",
                f"imagecache's disk has {free} bytes free, and {self._free_bytes_min} are kept free",
                retry_after_s=30.0,
            )


class Upload:
    """A blob being written: `write` pieces, then `finish`; left otherwise, nothing stays."""

    def __init__(self, store: Store, digest: Digest, owner: WorkspaceId | None) -> None:
        self._store = store
        self._digest = digest
        self._owner = owner
        self._hash = blake3.blake3()
        self._size = 0
        descriptor, self._path = store.temporary()
        self._file = os.fdopen(descriptor, "wb")

    @property
    def size(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises: InvalidRequestError when the blob becomes too long."""
        self._size += len(data)
        self._store.check_size(self._size)
        self._hash.update(data)
        self._file.write(data)

    def finish(self, keep_until: float | None) -> None:
        """Name the blob; it is durable when this returns. Raises: InvalidRequestError (bad_digest).

        Args:
            keep_until: Unix time until which it is leased; None = for ever.
        """
        self._file.close()
        if self._hash.hexdigest() != self._digest:
            raise mismatch(self._digest)
        self._store.adopt(self._path, self._digest, keep_until, self._owner)


def mismatch(digest: Digest) -> InvalidRequestError:
    """Return the refusal of bytes that are not what they are called."""
    return InvalidRequestError("request.bad_digest", f"the bytes sent are not what {digest} names")


def _touch(path: Path, until: float = 0.0) -> bool:
    """Say that a file is wanted now, or until a later time; return whether it is here."""
    try:
        until = max(until, time.time(), path.stat().st_mtime)
        os.utime(path, (until, until))
    except FileNotFoundError:
        return False
    return True


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _expired(path: Path, before: float) -> bool:
    return 0.0 < _time_of(path) < before


def _make_shelf(directory: Path) -> None:
    """Make a directory and those above it, so that they are there after a loss of power, too."""
    if not directory.exists():
        _make_shelf(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)
        _sync(directory.parent)


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def digest_of_file(path: Path) -> str:
    """Return the name that a file's bytes have."""
    return blake3.blake3().update_mmap(path).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
