"""Read what the store keeps, in the order of the paths, and take away what is not what its name says.

What is found corrupt or can't be read goes into the quarantine, so that everybody sees it as missing: builders
store it again, images that need it are said to be hurt. Everything here blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import blake3
import msgspec
import structlog
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import Digest

from glowplug_imagecache.evicting import BLOBS, CHUNKS, WORKSPACES
from glowplug_imagecache.lacking import hurt_of, lost_of
from glowplug_imagecache.objects import KEPT_BYTES_MAX, is_digest, raw_form
from glowplug_imagecache.scrub import Check, Checked, Hurt, Progress
from glowplug_imagecache.stock import Named, named_in
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

LEASED = "leased"
STATE = "scrub.json"
PIECE_BYTES = 1024 * 1024
# What a file system answers where the disk or its own checksums fail.
BROKEN = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})


class Scrubber:
    """The eyes of one store's scrub."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root

    def load(self) -> Progress:
        """Return how far the last process was; a file that can't be read begins anew."""
        try:
            return msgspec.json.decode((self._root / STATE).read_bytes(), type=Progress)
        except FileNotFoundError:
            return Progress()
        except (msgspec.MsgspecError, OSError) as err:
            log.warning("scrub.forgotten", error=str(err))
            return Progress()

    def save(self, progress: Progress) -> None:
        """Remember that, for whoever goes on. Not synced: what a loss of power forgets is read again."""
        descriptor, path = self._store.temporary()
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(progress))
        path.rename(self._root / STATE)

    def check(self, wanted: Check) -> Checked:
        """Check some files, at least one if there is any."""
        files = size = 0
        after = wanted.after
        corrupt: list[str] = []
        for path, name in self._files(wanted.after):
            found = _check(path, chunk=name.startswith(f"{CHUNKS}/"))
            after = name
            files += 1
            size += found.size
            if not found.intact and self._take_away(path, found):
                corrupt.append(name)
            if size >= wanted.bytes_max:
                return Checked(after, files, size, tuple(corrupt), ended=False)
        return Checked(after, files, size, tuple(corrupt), ended=True)

    def assess(self, corrupt: tuple[str, ...]) -> tuple[Hurt, ...]:
        """Return every image that lacks something. `corrupt`: paths, manifests among them."""
        there = {bytes.fromhex(path.name) for path, name in self._files(f"{CHUNKS}/", f"{CHUNKS}0")}
        manifests: dict[Digest, Named] = {}
        for path, _ in self._files(f"{BLOBS}/", f"{BLOBS}0"):
            with contextlib.suppress(FileNotFoundError, ContractError):  # evicted; no manifest
                manifests[Digest(path.name)] = named_in(path.read_bytes())
        lost = [digest for digest in lost_of(corrupt) if self._store.blob_size(digest) is None]
        return hurt_of(manifests, there, lost)

    def _take_away(self, path: Path, found: _Found) -> bool:
        """Quarantine a file, unless another one has its name by now."""
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == found.inode:
                self._store.quarantine(path)
                return True
        return False

    def _files(self, after: str, before: str = "~") -> Iterator[tuple[Path, str]]:
        """Yield files and their paths in the directory, in order, between two such paths."""
        rooms = [BLOBS, CHUNKS, LEASED]
        for owner in _names(self._root / WORKSPACES):
            rooms += [f"{WORKSPACES}/{owner}/{BLOBS}", f"{WORKSPACES}/{owner}/{LEASED}"]
        for room in sorted(rooms, key=lambda room: f"{room}/"):
            for shelf in _names(self._root / room):
                # "0" is what comes after "/": all of this shelf sorts before it.
                if f"{room}/{shelf}0" <= after:
                    continue
                for name in _names(self._root / room / shelf):
                    whole = f"{room}/{shelf}/{name}"
                    if after < whole < before and is_digest(name):
                        yield self._root / whole, whole


class _Found(msgspec.Struct, frozen=True):
    intact: bool
    size: int
    inode: int


def _check(path: Path, *, chunk: bool) -> _Found:
    """Read a file. One that is not there any more is intact; one that the disk can't read is not."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            try:
                intact = _is_intact(file, path.name, chunk=chunk)
            except OSError as err:
                if err.errno not in BROKEN:
                    raise
                log.warning("scrub.unreadable", path=path.name, error=str(err))
                intact = False
            return _Found(intact, about.st_size, about.st_ino)
    except FileNotFoundError:
        return _Found(intact=True, size=0, inode=0)
    except OSError as err:  # of this process or the file's rights: nothing is known about its bytes
        log.warning("scrub.skipped", path=path.name, error=str(err))
        return _Found(intact=True, size=0, inode=0)


def _is_intact(file: BinaryIO, name: str, *, chunk: bool) -> bool:
    if chunk:
        return raw_form(Digest(name), file.read(KEPT_BYTES_MAX + 1)) is not None
    hashed = blake3.blake3()
    while piece := file.read(PIECE_BYTES):
        hashed.update(piece)
    return bool(hashed.hexdigest() == name)


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
