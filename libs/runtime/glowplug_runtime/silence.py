"""Which streams leave writes unanswered, while the broker itself answers. Pure.

A broker that could not write a stream to its disk freezes it: from then on it leaves every write without a
word, also when the disk has room again, until it is restarted. Who waits for that word can tell: its own
broker answers it, and the stream has not for so long. An answer of any kind ends it; so does a reconnect.
"""

from __future__ import annotations

# Longer than the broker takes over a busy disk, and than one unanswered try.
SILENT_S = 5.0
# Nobody has written since: it may have been mended, and nobody would know.
FORGOTTEN_S = 60.0


class Silences:
    """See the module."""

    def __init__(self) -> None:
        self._between: dict[str, tuple[float, float]] = {}

    def unanswered(self, stream: str, asked_at: float, now: float) -> None:
        """A write that was asked for at `asked_at` has had no answer by now, though the broker is there."""
        first, last = self._between.get(stream, (asked_at, now))
        if now - last >= FORGOTTEN_S:
            first = asked_at
        self._between[stream] = (first, now)

    def answered(self, stream: str) -> None:
        """A write was answered, whatever was said."""
        self._between.pop(stream, None)

    def reconnected(self) -> None:
        """Another broker, or the same one started again: nothing is known of its streams."""
        self._between.clear()

    def silent(self, now: float) -> tuple[str, ...]:
        """Return the streams that take no writes, as far as we can tell."""
        return tuple(
            sorted(
                stream
                for stream, (first, last) in self._between.items()
                if last - first >= SILENT_S and now - last < FORGOTTEN_S
            )
        )
