"""Take the values of secrets out of what a command writes. Pure.

A stream comes in pieces that may end anywhere: what may be the beginning of a value is held back until it is
clear whether it is one. A value is looked for as it is, and line by line where it has several, since programs
write lines of their own around them. What is too short to be told from other text stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MASK: Final = b"***"
# "1" and "true" are in every output.
SHORTEST: Final = 4
# A longer line is looked for in parts of this size, so that little is held back and compared.
PART_BYTES: Final = 1024


def parts_of(values: Iterable[str]) -> tuple[bytes, ...]:
    """Return what to look for: each line of each value, long ones in parts."""
    found: dict[bytes, None] = {}
    for value in values:
        for line in value.encode("utf-8", "surrogatepass").splitlines():
            text = line.strip()
            for start in range(0, len(text), PART_BYTES):
                # The last part reaches back, so that none is too short.
                end = min(len(text), start + PART_BYTES)
                part = text[max(0, end - PART_BYTES) : end]
                if len(part) >= SHORTEST:
                    found[part] = None
    return tuple(found)


class Mask:
    """One stream of a command."""

    def __init__(self, values: Iterable[str]) -> None:
        self._parts = parts_of(values)
        self._kept = b""
        # So many bytes of what is kept belong to a value that was told as MASK already.
        self._ahead = 0

    def feed(self, data: bytes) -> bytes:
        """Return what may be told after another piece."""
        text = self._kept + data
        return self._tell(text, self._undecided(text))

    def end(self) -> bytes:
        """Return what was held back: nothing comes after it."""
        return self._tell(self._kept, len(self._kept))

    def _tell(self, text: bytes, until: int) -> bytes:
        if not until:
            self._kept = text
            return b""
        told: list[bytes] = []
        at = ahead = 0
        for start, end in self._spans(text):
            if start >= until:
                break
            told.append(text[at:start])
            if start or not self._ahead:
                told.append(MASK)
            at, ahead = min(end, until), max(0, end - until)
        told.append(text[at:until])
        self._kept, self._ahead = text[until:], ahead
        return b"".join(told)

    def _spans(self, text: bytes) -> list[tuple[int, int]]:
        """Return where values are, in order; those that overlap as one."""
        found = [(0, self._ahead)] if self._ahead else []
        for part in self._parts:
            at = text.find(part)
            while at >= 0:
                found.append((at, at + len(part)))
                at = text.find(part, at + 1)
        spans: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans

    def _undecided(self, text: bytes) -> int:
        """Return where what may be the beginning of a value begins, at the text's end."""
        first = len(text)
        for part in self._parts:
            at = text.find(part[:1], max(0, len(text) - len(part) + 1))
            while 0 <= at < first:
                if part.startswith(text[at:]):
                    first = at
                at = text.find(part[:1], at + 1)
        return first
