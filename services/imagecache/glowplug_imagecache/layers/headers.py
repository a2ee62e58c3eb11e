"""One block of a tar, as POSIX (ustar), GNU tar and their forebears wrote it. Pure.

Numbers are octal text, or binary where GNU tar needed more room; a block is believed only if its sum is
right, in either of the two ways in which it was ever computed.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from glowplug_imagecache.layers.bounds import corrupt

BLOCK: Final = 512
NUMBER_MAX: Final = 2**63 - 1
_SUM_AT: Final = slice(148, 156)
_POSIX_MAGIC: Final = b"ustar\x00"
_GNU_MAGIC: Final = b"ustar  \x00"
_DEVICES: Final = (b"3", b"4")
_BINARY: Final = 0x80
_NEGATIVE: Final = 0xFF


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A header block's fields, as they stand there."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    kind: bytes
    linkname: bytes
    major: int
    minor: int
    raw: bytes


def parse_block(raw: bytes) -> Block:
    """Return what a block says. Raises: InvalidRequestError (layer.corrupt)."""
    assert len(raw) == BLOCK, len(raw)  # noqa: S101 - the reader's duty
    if not _adds_up(raw):
        raise corrupt("has a damaged header in its archive")
    name = text(raw[0:100])
    posix = raw[257:263] == _POSIX_MAGIC
    if posix and (prefix := text(raw[345:500])):
        name = prefix + b"/" + name
    # Older forms have other bytes there, and so may what is no device.
    has_device = raw[156:157] in _DEVICES and (posix or raw[257:265] == _GNU_MAGIC)
    return Block(
        name=name,
        mode=number(raw[100:108]),
        uid=number(raw[108:116]),
        gid=number(raw[116:124]),
        size=number(raw[124:136]),
        mtime=number(raw[136:148]),
        kind=raw[156:157],
        linkname=text(raw[157:257]),
        major=number(raw[329:337]) if has_device else 0,
        minor=number(raw[337:345]) if has_device else 0,
        raw=raw,
    )


def text(field: bytes) -> bytes:
    """Return a field up to its first zero byte."""
    return field.partition(b"\x00")[0]


def number(field: bytes) -> int:
    """Return a number field's value. Raises: InvalidRequestError (layer.corrupt)."""
    if field[0] & _BINARY:
        value = int.from_bytes(field, "big")
        bits = len(field) * 8
        # The first bit marks the form; 0xff begins a negative number.
        value = value - (1 << bits) if field[0] == _NEGATIVE else value & ((1 << (bits - 1)) - 1)
    else:
        digits = text(field.strip(b" \x00")).strip(b" ")
        if digits.strip(b"01234567"):
            raise corrupt("has a number in its archive that is none")
        value = int(digits, 8) if digits else 0
    if not -NUMBER_MAX <= value <= NUMBER_MAX:
        raise corrupt("has a number in its archive that is too large")
    return value


def _adds_up(raw: bytes) -> bool:
    said = number(raw[_SUM_AT])
    # As if the sum's own field were blanks.
    if sum(raw) - sum(raw[_SUM_AT]) + 8 * ord(" ") == said:
        return True
    # Bytes of 128 and more counted as negative ones in some old tars.
    signed: tuple[int, ...] = struct.unpack(f"{BLOCK}b", raw)
    return sum(signed) - sum(signed[_SUM_AT]) + 8 * ord(" ") == said
