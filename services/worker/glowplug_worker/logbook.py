"""What one container prints, bounded, in order, cut into segments. Pure.

Output beyond the rate is dropped and counted, and a line says so where it happened; lines are never
reordered. Pieces are decoded leniently, because user code may print any bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkspaceId
from glowplug_contracts.messages.container import LogLine, LogSegment

RATE_BYTES_S: Final = 1024 * 1024
BURST_BYTES: Final = 4 * 1024 * 1024
SEGMENT_BYTES: Final = 64 * 1024
# While the broker is away, so much waits for it.
PENDING_BYTES_MAX: Final = 8 * 1024 * 1024
LAST_LINES: Final = 20
LINE_CHARS_SHOWN: Final = 1000
LINE_CHARS_MAX: Final = 32 * 1024
LINE_BYTES: Final = 48  # what a line weighs beyond its text


class Logbook:
    """One container's output. Every `now` is monotonic; `at` in lines is Unix time."""

    def __init__(
        self,
        *,
        container_id: ContainerId,
        deployment_id: DeploymentId,
        workspace: WorkspaceId,
        name: str,
        now: float,
    ) -> None:
        self._segment = LogSegment(
            container_id=container_id,
            deployment_id=deployment_id,
            workspace=workspace,
            name=name,
            number=0,
            lines=(),
        )
        self._number = 0
        self._tokens = float(BURST_BYTES)
        self._filled_at = now
        self._lines: list[LogLine] = []
        self._bytes = 0
        self._dropped = 0  # not yet said
        self._dropped_in_segment = 0
        self.dropped_total = 0
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def pending(self) -> bool:
        """Return whether there is something to publish."""
        return bool(self._lines) or self._dropped > 0

    @property
    def full(self) -> bool:
        """Return whether a segment's worth waits."""
        return self._bytes >= SEGMENT_BYTES

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Return the container's last lines, for errors."""
        return tuple(self._last)

    def write(
        self,
        piece: bytes,
        *,
        stream: str,
        invocation_id: str,
        at: float,
        now: float,
        dropped: int = 0,
    ) -> None:
        """Take output. `dropped`: lines that the runner gave up before it."""
        self._fill(now)
        self._count_dropped(dropped)
        for text in _cut(piece.decode("utf-8", "replace")):
            weight = len(text) + LINE_BYTES
            if weight > self._tokens or self._bytes > PENDING_BYTES_MAX:
                self._count_dropped(1)
                continue
            self._tokens -= weight
            self._say_dropped(stream, invocation_id, at)
            self._lines.append(
                LogLine(at=at, stream=stream, text=text, invocation_id=invocation_id)
            )
            self._bytes += weight
            self._last.append(text.rstrip("\n")[:LINE_CHARS_SHOWN])

    def take(self, at: float) -> LogSegment:
        """Return what is pending as a segment, as much as one message should carry; call while `pending`."""
        if not self._lines:
            self._say_dropped("stderr", "", at)
        taken, weight = 0, 0
        for line in self._lines:
            if weight >= SEGMENT_BYTES:
                break
            weight += len(line.text) + LINE_BYTES
            taken += 1
        lines, self._lines = tuple(self._lines[:taken]), self._lines[taken:]
        self._bytes -= weight
        number, self._number = self._number, self._number + 1
        dropped, self._dropped_in_segment = self._dropped_in_segment, 0
        return msgspec.structs.replace(self._segment, number=number, lines=lines, dropped=dropped)

    def _fill(self, now: float) -> None:
        earned = (now - self._filled_at) * RATE_BYTES_S
        self._tokens = min(float(BURST_BYTES), self._tokens + earned)
        self._filled_at = now

    def _count_dropped(self, lines: int) -> None:
        self._dropped += lines
        self._dropped_in_segment += lines
        self.dropped_total += lines

    def _say_dropped(self, stream: str, invocation_id: str, at: float) -> None:
        if not self._dropped:
            return
        text = (
            f"[glowplug: {self._dropped} lines dropped here; a container may print "
            f"{RATE_BYTES_S // 1024} KiB/s]\n"
        )
        self._dropped = 0
        self._lines.append(LogLine(at=at, stream=stream, text=text, invocation_id=invocation_id))
        self._bytes += len(text) + LINE_BYTES


def _cut(text: str) -> Iterator[str]:
    """Yield lines with their ends; a rest without one is a line too, and long lines are cut."""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), LINE_CHARS_MAX):
            yield line[start : start + LINE_CHARS_MAX]
