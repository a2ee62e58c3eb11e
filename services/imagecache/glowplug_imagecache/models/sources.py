"""Where weights come from, as whoever stores them sees it: files with sizes, and their bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec
from glowplug_contracts.messages.model import ModelRecord

from glowplug_imagecache.metering import Contents

# What is being done, bytes done, bytes in all (0 = not known).
Say = Callable[[str, int, int], None]


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Weights that are here.

    Attributes:
        files: path, size, whether it is a program; their numbers are their places here.
        contents: blocks; used in a thread.
        revision: what the source's name stood for.
    """

    files: tuple[tuple[str, int, bool], ...]
    contents: Contents
    revision: str = ""


class WeightSource(Protocol):
    """One kind of source."""

    async def is_near(self, what: str) -> bool:
        """Return whether this imagecache can bring it: not where what was sent lies at another."""

    def open(
        self, record: ModelRecord, what: str, say: Say
    ) -> contextlib.AbstractAsyncContextManager[Weights]:
        """Yield the weights of a record's pull once they are here.

        What was brought is kept where this ends with an error that another try may mend, and goes where it
        ends well. Raises: PlatformError.
        """
