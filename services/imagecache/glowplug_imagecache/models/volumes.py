"""What a volume holds now, as weights that never change: read where it lies, and told if it changes meanwhile.

Code in containers writes to volumes while this reads. So no link is followed, on the way to the folder or in it: every
directory is opened from the one above, and what is read must still be what was listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.errors import InvalidRequestError, NotFoundError, UnavailableError
from glowplug_contracts.ids import WorkspaceId, check_name, check_token
from glowplug_contracts.messages.model import ModelRecord
from glowplug_contracts.weights import FILES_MAX, check_files, refused

from glowplug_imagecache.models.sources import Say, Weights
from glowplug_imagecache.quota import Quota

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PROGRAM: Final = 0o100


class _Seen(msgspec.Struct, frozen=True):
    """A file as it was when it was listed."""

    path: str
    size: int
    inode: int
    changed_ns: int
    executable: bool


class VolumeWeights:
    """See the module; a `WeightSource`.

    Args:
        root: where volumes lie, the same as the gateways'; None = this imagecache has none.
        bytes_max: of one model.
    """

    def __init__(self, root: Path | None, quota: Quota, *, bytes_max: int) -> None:
        self._root = root
        self._quota = quota
        self._bytes_max = bytes_max

    async def is_near(self, what: str) -> bool:  # noqa: ARG002 - all volumes or none
        """Return whether this imagecache sees volumes."""
        return self._root is not None

    @contextlib.asynccontextmanager
    async def open(self, record: ModelRecord, what: str, say: Say) -> AsyncIterator[Weights]:
        """Yield what is in a volume's folder now.

        Raises: NotFoundError (volume.not_found, volume.no_file), InvalidRequestError (volume.none_here,
            model.refused, model.too_large), QuotaExceededError.
        """
        name, _, inner = what.partition("/")
        parts = inner.split("/") if inner else []
        volume = self._volume(record.workspace, name)
        folder = await asyncio.to_thread(_open_folder, volume, name, parts)
        try:
            seen = await asyncio.to_thread(_list, folder)
            total = check_files(((one.path, one.size) for one in seen), self._bytes_max)
            with contextlib.closing(self._quota.room(record.workspace)) as room:
                await room.hold(total)
                say("storing", 0, total)
                yield Weights(
                    files=tuple((one.path, one.size, one.executable) for one in seen),
                    contents=_Files(folder, seen),
                )
        finally:
            os.close(folder)

    def _volume(self, workspace: WorkspaceId, name: str) -> Path:
        if self._root is None:
            raise InvalidRequestError(
                "volume.none_here",
                "imagecache sees no volumes: give it the gateways' directory in "
                "GLOWPLUG_IMAGECACHE_VOLUMES_DIR (`glowplug up` does)",
            )
        return self._root / check_token(workspace) / check_name(name, "volume")


class _Files:
    """Reads files that still are what they were."""

    def __init__(self, folder: int, seen: list[_Seen]) -> None:
        self._folder = folder
        self._seen = seen

    def read(self, content: int, offset: int, size: int) -> bytes:
        """Return bytes of a file. Raises: UnavailableError (model.unavailable) if it changed."""
        wanted = self._seen[content]
        *above, name = wanted.path.split("/")
        try:
            with _descended(self._folder, above) as folder:
                file = os.open(name, _FILE, dir_fd=folder)
            try:
                data = os.pread(file, size, offset)
                now = os.fstat(file)
            finally:
                os.close(file)
        except OSError as err:
            raise _changed(wanted.path) from err
        is_same = (now.st_ino, now.st_mtime_ns, now.st_size) == (
            *(wanted.inode, wanted.changed_ns),
            wanted.size,
        )
        if not is_same or len(data) != size:
            raise _changed(wanted.path)
        return data


def _open_folder(volume: Path, name: str, parts: list[str]) -> int:
    try:
        root = os.open(volume, _FOLDER)
    except OSError as err:
        raise NotFoundError(
            "volume.not_found", f"there is no volume {name}; `glowplug volume list` names them"
        ) from err
    try:
        with _descended(root, parts) as folder:
            return os.dup(folder)
    except OSError as err:
        raise NotFoundError(
            "volume.no_file",
            f"there is no folder {'/'.join(parts)[:200]!r} in volume {name}; links are not followed",
        ) from err
    finally:
        os.close(root)


@contextlib.contextmanager
def _descended(root: int, parts: list[str]) -> Iterator[int]:
    """Yield a descriptor of a folder below `root`; no component may be a link. Raises: OSError."""
    at = os.dup(root)
    try:
        for part in parts:
            below = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _list(folder: int) -> list[_Seen]:
    """Return all files, by path. Raises: InvalidRequestError (model.refused, model.too_large)."""
    found: list[_Seen] = []
    for current, folders, names, fd in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
        folders.sort()
        for name in (*folders, *names):
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            path = f"{current}/{name}".removeprefix("./")
            if stat.S_ISREG(facts.st_mode):
                executable = bool(facts.st_mode & _PROGRAM)
                found.append(
                    _Seen(path, facts.st_size, facts.st_ino, facts.st_mtime_ns, executable)
                )
            elif not stat.S_ISDIR(facts.st_mode):
                raise refused(path, "is a link, a pipe or the like; models have files and folders")
            if len(found) > FILES_MAX:
                return found  # one too many, which `check_files` says
    return sorted(found, key=lambda one: one.path)


def _changed(path: str) -> UnavailableError:
    return UnavailableError(
        "model.unavailable",
        f"{path[:200]!r} changed while it was stored; pull again when nobody writes to it",
    )
