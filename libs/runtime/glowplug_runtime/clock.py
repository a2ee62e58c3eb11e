"""Time and chance, in one place, so that everything else can be given other ones."""

from __future__ import annotations

import os
import time

from glowplug_contracts.ids import ENTROPY_BYTES, make_id


class Clock:
    """The machine's clocks."""

    def now(self) -> float:
        """Return monotonic seconds: for durations and deadlines of this process."""
        return time.monotonic()

    def unix(self) -> float:
        """Return Unix seconds: for what people read, and due times in records."""
        return time.time()

    def id(self, kind: str) -> str:
        """Return a new id of this kind."""
        return make_id(kind, int(time.time() * 1000), os.urandom(ENTROPY_BYTES))
