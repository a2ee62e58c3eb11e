"""A service's log is never what ends it."""

from __future__ import annotations

import errno
import io

from glowplug_runtime.logging import Lines


class Disk(io.StringIO):
    """A file whose disk is full now and then."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_line_that_can_not_be_written_is_dropped_and_counted():
    disk = Disk()
    lines = Lines(disk)
    lines.info("one")
    disk.full = True
    lines.error("two")
    lines.warning("three")
    disk.full = False
    lines.info("four")
    lines.info("five")
    assert disk.getvalue().splitlines() == [
        "one",
        '{"event": "log.dropped", "lines": 2}',
        "four",
        "five",
    ]
