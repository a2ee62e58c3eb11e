"""One blob on its way to a file: what is there already, what comes, and whether it is what was asked for.

The bytes lie in "<name>.part" until all were hashed; only then, and safe on disk, do they get the name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, TypeVar

import aiohttp
from glowplug_contracts.errors import UnavailableError

from glowplug_imagecache.registry.asking import PIECE_BYTES, no_room
from glowplug_imagecache.registry.manifests import Descriptor

OK: Final = 200
PARTIAL: Final = 206
PART: Final = ".part"
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z")

T = TypeVar("T")


class Download:
    """A blob that may take several connections.

    Args:
        before: hashed before the bytes, where that is how they got their name.

    Attributes:
        size: bytes in the file; None before anybody looked.
        furthest: the most that there ever were: what shows that it gets on.
    """

    def __init__(
        self,
        target: Path,
        blob: Descriptor,
        on_bytes: Callable[[int], None] | None = None,
        *,
        before: bytes = b"",
    ) -> None:
        self._before = before
        self.blob = blob
        self.size: int | None = None
        self.furthest = 0
        self._target = target
        self._part = target.with_name(f"{target.name}{PART}")
        self._on_bytes = on_bytes or (lambda _: None)
        self._too_long = False
        self._hashed = self._fresh_hash()

    async def is_there(self) -> bool:
        """Return whether the file is there, with the right bytes; remove it if they are others."""
        return await _on_disk(self._check_target)

    async def open(self) -> int:
        """Return how many bytes are there, of this try or an earlier one."""
        if self.size is None:
            self.size = await _on_disk(self._look)
        return self.size

    async def take(self, answer: aiohttp.ClientResponse) -> None:
        """Write what an answer holds. Call `open` first, and `finish` afterwards.

        Raises: UnavailableError where it is not what was asked for (registry.unavailable), or there is no
            room for it (registry.no_room).
        """
        size = await self.open()
        if answer.status != PARTIAL or not self._continues(
            answer.headers.get("Content-Range", ""), size
        ):
            size = await self._start_again()
        if answer.status not in (OK, PARTIAL) or (answer.status == PARTIAL and not size):
            raise UnavailableError(
                "registry.unavailable", f"{answer.url.host} sent another part than was asked for"
            )
        file = await _on_disk(lambda: self._part.open("ab"))
        try:
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                if size + len(piece) > self.blob.size:
                    self._too_long = True
                    break
                await self._write(file, piece)
                size += len(piece)
                self.size, self.furthest = size, max(self.furthest, size)
                self._on_bytes(size)
        finally:
            await asyncio.to_thread(file.close)

    async def finish(self) -> bool:
        """Give the file its name if its bytes are right; else remove it and return False.

        Raises: UnavailableError if there are too few; they are kept.
        """
        size = await self.open()
        if size < self.blob.size and not self._too_long:
            raise UnavailableError(
                "registry.unavailable",
                f"the registry stopped after {size} of {self.blob.size} bytes of a layer",
            )
        if self._too_long or self._hashed.hexdigest() != self.blob.digest.partition(":")[2]:
            await self._start_again()
            return False
        await _on_disk(self._keep)
        return True

    async def _start_again(self) -> int:
        self._too_long = False
        self._hashed = self._fresh_hash()
        self.size = 0
        await asyncio.to_thread(self._part.unlink, missing_ok=True)
        return 0

    async def _write(self, file: IO[bytes], piece: bytes) -> None:
        def write() -> None:
            file.write(piece)
            file.flush()
            self._hashed.update(piece)

        try:
            await _on_disk(write)
        except (OSError, UnavailableError):
            # The last piece may be there in part; and the room that it took is needed.
            await self._start_again()
            raise

    def _check_target(self) -> bool:
        try:
            with self._target.open("rb") as file:
                found = hashlib.file_digest(file, self._fresh_hash).hexdigest()
        except FileNotFoundError:
            return False
        if found == self.blob.digest.partition(":")[2]:
            return True
        self._target.unlink()
        return False

    def _look(self) -> int:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        if not self._part.exists():
            return size
        with self._part.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= self.blob.size:
                while piece := file.read(PIECE_BYTES):
                    self._hashed.update(piece)
                    size += len(piece)
                return size
        self._part.unlink()
        return size

    def _keep(self) -> None:
        with self._part.open("ab") as file:
            os.fsync(file.fileno())
        self._part.rename(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _continues(self, content_range: str, size: int) -> bool:
        found = _RANGE.match(content_range)
        return (
            size > 0
            and found is not None
            and int(found[1]) == size
            and found[3] in (str(self.blob.size), "*")
        )

    def _fresh_hash(self) -> hashlib._Hash:
        return hashlib.new(self.blob.digest.partition(":")[0], self._before)


async def _on_disk(do: Callable[[], T]) -> T:
    """Return what `do` does in a thread. Raises: UnavailableError (registry.no_room) on a full disk.

    Who is cancelled waits for the thread, so that the next try finds the file in no other one's hands.
    """
    work = asyncio.get_running_loop().run_in_executor(None, do)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        work.exception()  # of no interest any more
        raise
    except OSError as err:
        if full := no_room(err):
            raise full from err
        raise
