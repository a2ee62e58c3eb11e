"""CRC-32C (Castagnoli), which seals an EROFS super block. Pure.

A table and a loop: it runs over 3 KiB once per image, which is no reason for a dependency.
"""

from __future__ import annotations

from collections.abc import Iterable

_POLYNOMIAL = 0x82F6_3B78
_ONES = 0xFFFF_FFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(_entry(value) for value in range(256))


def crc32c(data: Iterable[int]) -> int:
    """Return the checksum as EROFS writes it: from all ones, and not inverted at the end."""
    value = _ONES
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value
