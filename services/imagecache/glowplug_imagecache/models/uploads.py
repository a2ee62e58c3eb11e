"""Pieces of uploads that no model has yet: files named by their digests, one folder for each workspace.

    uploads/<workspace>/<digest>          a piece, or a listing
    uploads/<workspace>/new-…             being written

Nothing of one workspace is there for another. A piece is verified when it comes and again when it is read, so
nothing is synced: what a power cut tears is sent again. What nobody asked to be a model is swept. Blocks:
callers run it in threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import InvalidRequestError, UnavailableError
from glowplug_contracts.ids import Digest, WorkspaceId, check_digest, check_token
from glowplug_runtime.clock import Clock

from glowplug_imagecache.objects import digest_of
from glowplug_imagecache.registry.asking import no_room

# Somebody whose line is slow comes back to what was sent yesterday.
KEPT_S: Final = 2 * 86_400.0


class Uploads:
    """See the module.

    Args:
        free_bytes_min: pieces are refused while the disk has less free.
    """

    def __init__(self, root: Path, free_bytes_min: int) -> None:
        self._root = root
        self._free_bytes_min = free_bytes_min
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, workspace: WorkspaceId, digest: Digest, data: bytes) -> None:
        """Keep bytes under their name.

        Raises: InvalidRequestError (request.bad_digest), UnavailableError (model.no_room).
        """
        if digest_of(data) != digest:
            raise InvalidRequestError(
                "request.bad_digest", f"the bytes sent are not what {digest} names"
            )
        folder = self._folder(workspace)
        folder.mkdir(exist_ok=True, mode=0o700)
        self.check_room(len(data))
        try:
            _write(folder, digest, data)
        except OSError as err:
            if no_room(err):
                raise full(f"{len(data)} bytes could not be written: {err}") from err
            raise

    def check_room(self, size: int) -> None:
        """Raise UnavailableError (model.no_room) where `size` bytes more would fill the disk."""
        free = shutil.disk_usage(self._root).free
        if free - size < self._free_bytes_min:
            raise full(
                f"imagecache's disk has {free} bytes free: {size} more are needed, and "
                f"{self._free_bytes_min} are kept free"
            )

    def has(self, workspace: WorkspaceId, digest: Digest) -> bool:
        """Return whether somebody of the workspace has sent it; if so, it is kept for KEPT_S from now on."""
        try:
            os.utime(self._folder(workspace) / check_digest(digest))
        except FileNotFoundError:
            return False
        return True

    def has_anywhere(self, digest: Digest) -> bool:
        """Return whether anybody has sent it; for the platform's own eyes."""
        return any(self._root.glob(f"*/{check_digest(digest)}"))

    def read(self, workspace: WorkspaceId, digest: Digest) -> bytes | None:
        """Return verified bytes; None if they were never sent, or are not what they are called."""
        path = self._folder(workspace) / check_digest(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if digest_of(data) != digest:
            path.unlink(missing_ok=True)
            return None
        return data

    def drop(self, workspace: WorkspaceId, digests: Iterable[Digest]) -> None:
        """Forget what is stored elsewhere now."""
        folder = self._folder(workspace)
        for digest in digests:
            (folder / check_digest(digest)).unlink(missing_ok=True)

    def sweep(self, now: float) -> int:
        """Remove what lies here unused for KEPT_S at `now` (Unix time); return how much."""
        removed = 0
        for folder in self._root.iterdir():
            for path in folder.iterdir():
                try:
                    old = path.stat().st_mtime < now - KEPT_S
                except FileNotFoundError:
                    continue
                if old:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def tick(self, clock: Clock) -> Callable[[], Awaitable[None]]:
        """Return what sweeps now."""

        async def sweep() -> None:
            await asyncio.to_thread(self.sweep, clock.unix())

        return sweep

    def _folder(self, workspace: WorkspaceId) -> Path:
        return self._root / check_token(workspace)


def full(why: str) -> UnavailableError:
    """Return the error for a disk without room."""
    return UnavailableError("model.no_room", why, retry_after_s=30.0)


def _write(folder: Path, digest: Digest, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix="new-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).rename(folder / digest)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
