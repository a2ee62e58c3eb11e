"""Look at the store's directory and remove from it what the machine of `eviction.py` decides.

A thing is removed by a rename into `doomed/` and a second look at its time. Whoever wants it sets that time
first: either that was before the rename, and it is put back, or their attempt finds no file, and they take it
for missing. So it does not matter who else puts, reads or asks at the same time. What a crash left in
`doomed/` is put back before the next look, since nobody can know whether its second look would have saved it.
One evicts at a time (`locking.py`): a look must not miss an image that another one has in its hands.

Everything here blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import Digest, WorkspaceId

from glowplug_imagecache.eviction import DropImages, DropTrees, Sweep, Swept
from glowplug_imagecache.objects import is_digest
from glowplug_imagecache.stock import (
    ManifestSeen,
    Named,
    ObjectSeen,
    SourceSeen,
    Stock,
    named_in,
    stock_of,
)
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

CHUNKS, BLOBS, WORKSPACES, DOOMED = "chunks", "blobs", "workspaces", "doomed"
LOCK = "evicting.lock"


class Evictor:
    """The hands of one store's eviction. Only whoever has the lock LOCK may use them."""

    def __init__(self, store: Store) -> None:
        self._root = store.root
        (self._root / DOOMED).mkdir(exist_ok=True, mode=0o700)

    def recover(self) -> None:
        """Put back what an eviction that died had in its hands: a look decides anew."""
        for doomed in _entries(self._root / DOOMED):
            log.info("eviction.put_back", name=doomed.name)
            _put_back(doomed, self._root.joinpath(*doomed.name.split(".")))

    def look(self) -> Stock:
        """Return what there is."""
        # Objects first: one that comes later is not in the stock, so it is not swept.
        objects = [
            ObjectSeen(bytes.fromhex(name), found.st_size, found.st_mtime)
            for _, name, found in _files(self._root / CHUNKS)
        ]
        sources = [
            SourceSeen(
                owner=WorkspaceId(rooms.name),
                digest=Digest(name),
                used_at=found.st_mtime,
                size=found.st_size,
            )
            for rooms in _entries(self._root / WORKSPACES)
            for _, name, found in _files(rooms / BLOBS)
        ]
        manifests = [
            ManifestSeen(
                digest=Digest(name),
                used_at=found.st_mtime,
                size=found.st_size,
                named=_read(Path(path)),
            )
            for path, name, found in _files(self._root / BLOBS)
        ]
        return stock_of(objects, sources, manifests)

    def drop_images(self, decided: DropImages) -> frozenset[Digest]:
        """Remove manifests that nobody used since; return which are gone."""
        return self._drop([one.digest for one in decided.images], decided.unused_since)

    def drop_trees(self, decided: DropTrees) -> frozenset[Digest]:
        """Remove trees' manifests that nobody used since; return which are gone."""
        return self._drop(decided.trees, decided.unused_since)

    def sweep(self, decided: Sweep) -> Swept:
        """Remove objects and sources that nobody touched since; return how much is gone."""
        paths = [self._at(CHUNKS, Digest(digest.hex())) for digest in decided.objects]
        paths += [
            self._at(f"{WORKSPACES}/{source.owner}/{BLOBS}", source.digest)
            for source in decided.sources
        ]
        sizes = [self._remove(path, decided.untouched_since) for path in paths]
        gone = [size for size in sizes if size is not None]
        return Swept(len(gone), sum(gone))

    # -- One file -------------------------------------------------------------------------------

    def _drop(self, manifests: Iterable[Digest], before: float) -> frozenset[Digest]:
        return frozenset(
            digest
            for digest in manifests
            if self._remove(self._at(BLOBS, digest), before) is not None
        )

    def _at(self, room: str, digest: Digest) -> Path:
        return self._root / room / digest[:2] / digest

    def _remove(self, path: Path, before: float) -> int | None:
        """Remove a file whose time is before that; return its size, None if it stays or is gone."""
        # Neither workspaces nor digests have dots in them.
        doomed = self._root / DOOMED / ".".join(path.relative_to(self._root).parts)
        try:
            path.rename(doomed)
            found = doomed.stat()
        except FileNotFoundError:  # quarantined just now
            return None
        if found.st_mtime >= before:
            _put_back(doomed, path)
            return None
        doomed.unlink(missing_ok=True)
        return found.st_size


def _put_back(doomed: Path, path: Path) -> None:
    # What came under the same name in between has the same bytes, and a later time.
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(doomed)
    doomed.unlink()


def _read(path: Path) -> Named | None:
    """Return what a manifest names; None if it can't be read."""
    try:
        return read_named(path.name, path.read_bytes())
    except FileNotFoundError:  # quarantined just now
        return Named(objects=frozenset())


def read_named(digest: str, manifest: bytes) -> Named | None:
    """Return what a manifest names; None, and a warning, if it can't be read."""
    try:
        return named_in(manifest)
    except ContractError as err:
        log.warning("eviction.unreadable", image_digest=digest, error=str(err))
        return None


def _files(room: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield path, name and state of all that is ours. Strings: a store has a million files."""
    for shelf in _entries(room):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(shelf) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode) and is_digest(entry.name):
                        yield entry.path, entry.name, about


def _entries(directory: Path) -> Iterable[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
