"""This replica's share of objects: files by path, whole or not there. The truth of one member of a cluster.

    objects/<path>       as in a bucket; the modification time says when it was written
    objects-tmp/         being written

What is put is durable when `put` returns. Paths are checked: they come from other replicas. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from glowplug_contracts.errors import InvalidRequestError

from glowplug_imagecache.places import Thing

PIECE_BYTES: Final = 1024 * 1024
PATH_CHARS_MAX: Final = 300
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")
_TRIES: Final = 10


class RawShelf:
    """See the module."""

    def __init__(self, root: Path) -> None:
        self._root = root / "objects"
        self._temporary = root / "objects-tmp"
        # What a crash left half written is nobody's: one process has this directory.
        shutil.rmtree(self._temporary, ignore_errors=True)
        for folder in (self._root, self._temporary):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write an object."""
        target = self._at(path)
        descriptor, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(descriptor, "wb") as file:
                shutil.copyfileobj(source, file, PIECE_BYTES)
                file.flush()
                os.fsync(file.fileno())
            for _ in range(_TRIES):  # a folder that was just emptied is removed
                changed = _make_folder(target.parent)
                with contextlib.suppress(FileNotFoundError):
                    Path(name).rename(target)
                    break
            else:
                raise FileNotFoundError(target)
            for folder in (target.parent, *changed):
                _sync(folder)
        finally:
            Path(name).unlink(missing_ok=True)

    def open(self, path: str) -> IO[bytes] | None:
        """Return an object to read; None if it is not here."""
        try:
            return self._at(path).open("rb")
        except (FileNotFoundError, IsADirectoryError):
            return None

    def head(self, path: str) -> Thing | None:
        """Return what is here under a path."""
        file = self._at(path)
        try:
            about = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Thing(path, about.st_size, about.st_mtime) if file.is_file() else None

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects, and folders that are empty then."""
        for path in paths:
            file = self._at(path)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                file.unlink()
            with contextlib.suppress(OSError):  # others are in it
                for folder in file.parents:
                    if folder == self._root:
                        break
                    folder.rmdir()

    def walk(self, folder: str, after: str = "") -> Iterator[Thing]:
        """Yield what is in a folder and those below it, by path, from after a path on."""
        yield from self._below(self._at(folder), folder, after)

    def _below(self, folder: Path, path: str, after: str) -> Iterator[Thing]:
        try:
            with os.scandir(folder) as found:
                # As whole paths sort: what is in "a" comes after "a-b".
                entries = sorted(
                    (entry.name + "/" if entry.is_dir() else entry.name) for entry in found
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in entries:
            below = f"{path}/{name}"
            if name.endswith("/"):
                if below + "~" > after:
                    yield from self._below(folder / name[:-1], below[:-1], after)
            elif below > after:
                with contextlib.suppress(FileNotFoundError):
                    about = (folder / name).stat()
                    yield Thing(below, about.st_size, about.st_mtime)

    def _at(self, path: str) -> Path:
        if len(path) > PATH_CHARS_MAX or not _PATH.match(path):
            raise InvalidRequestError("request.invalid", f"{path[:80]!r} is no path of an object")
        return self._root / path


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; return which got a new entry by that."""
    changed: list[Path] = []
    for _ in range(_TRIES):
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            break
        except FileNotFoundError:
            changed += _make_folder(folder.parent)
        else:
            changed.append(folder.parent)
            break
    return changed


def _sync(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # emptied and removed: so is what was put
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
