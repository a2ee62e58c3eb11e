"""The words between the holder and the daemon: one packet each. Pure, standard library only."""

from __future__ import annotations

import struct
from typing import NamedTuple

_NEED = struct.Struct("<QIQQ")
_ANSWER = struct.Struct("<QIIQQ")
PACKET_BYTES_MAX = max(_NEED.size, _ANSWER.size)


class Need(NamedTuple):
    """Somebody waits for bytes of a device."""

    ticket: int
    device: int
    offset: int
    size: int


class Answer(NamedTuple):
    """A reader may go on (`error` 0), or fails. The bytes from `start` to before `end` are there for good.

    Ticket 0 is nobody's: only the bytes are told of.
    """

    ticket: int
    error: int
    device: int
    start: int
    end: int


def encode_need(need: Need) -> bytes:
    """Return the packet."""
    return _NEED.pack(*need)


def decode_need(data: bytes) -> Need:
    """Return what a packet says. Raises: struct.error."""
    return Need(*_NEED.unpack(data))


def encode_answer(answer: Answer) -> bytes:
    """Return the packet."""
    return _ANSWER.pack(*answer)


def decode_answer(data: bytes) -> Answer:
    """Return what a packet says. Raises: struct.error."""
    return Answer(*_ANSWER.unpack(data))
