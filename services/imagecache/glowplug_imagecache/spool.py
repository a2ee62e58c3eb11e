"""Contents of an image's files while its layers are read: which of them stay is known only at the end.

One file without a name, in the store's own directory: a process that is killed leaves nothing of it, and
content that a later layer hides is never stored. Holes stay holes. Blocks: callers run it in threads.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from glowplug_imagecache.registry.asking import no_room
from glowplug_imagecache.store import Store

_ALIGNED: Final = 4096  # so that a hole of a file can be one on the disk


class Spool:
    """Takes contents in the order in which they come (`layers.reading.Contents`) and gives them back.

    Args:
        check: called with every piece; what it raises ends the reading.
    """

    def __init__(self, store: Store, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._starts = array("Q")
        self._lengths = array("Q")
        self._end = 0
        self._file, path = store.temporary()
        path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def take(self, content: int, offset: int, data: bytes) -> None:
        """Keep a piece of content number `content`. Raises: UnavailableError (registry.no_room)."""
        self._check()
        while len(self._starts) <= content:
            self._end += -self._end % _ALIGNED
            self._starts.append(self._end)
            self._lengths.append(0)
        start = self._starts[content]
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file, data[written:], start + offset + written)
        except OSError as err:
            if full := no_room(err):
                raise full from err
            raise
        self._lengths[content] = max(self._lengths[content], offset + len(data))
        self._end = max(self._end, start + offset + len(data))

    def read(self, content: int, offset: int, size: int) -> bytes:
        """Return bytes of a content; what never came is zeros."""
        there = 0
        if content < len(self._starts):
            there = max(0, min(size, self._lengths[content] - offset))
        data = os.pread(self._file, there, self._starts[content] + offset) if there else b""
        assert len(data) == there, (content, offset, size)  # noqa: S101 - nobody else has the file
        return data + bytes(size - there)
