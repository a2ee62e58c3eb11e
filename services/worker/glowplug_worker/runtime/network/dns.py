"""As much of the domain name system's messages as a resolver between needs. Pure; all input is hostile.

A question is read and answered anew, never passed through edited: what is told is exactly what was
checked. Of answers only addresses are read; a chain of aliases is told as its end.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection
from typing import Final

import msgspec

A, AAAA, IN = 1, 28, 1
NOERROR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 2, 3, 4, 5
_RESPONSE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_HEADER: Final = struct.Struct(">HHHHHH")
_RECORD: Final = struct.Struct(">HHIH")
_NAME_MAX, _LABEL_MAX = 255, 63
_POINTER = 0xC0
_QUESTION_AT = _HEADER.size
RECORDS_MAX: Final = 256  # of one answer that are looked at
ADDRESSES_MAX: Final = 32  # of one answer that are told
PLAIN_BYTES_MAX: Final = 512  # what every program takes over UDP

IPv4Address = ipaddress.IPv4Address


class MalformedError(ValueError):
    """The bytes are no message that is understood."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked. `name` is lower case without a last dot; `wire` is the question as it came."""

    number: int
    name: str
    kind: int
    klass: int
    wire: bytes


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """What another resolver answered: a code, addresses, and the shortest time they hold."""

    code: int
    truncated: bool = False
    addresses: tuple[IPv4Address, ...] = ()
    ttl_s: int = 0


def read_question(data: bytes) -> Question:
    """Return the question of a message. Raises: MalformedError for anything but one plain question."""
    number, flags, questions, answers, authorities, _ = _header(data)
    if flags & (_RESPONSE | _OPCODE) or questions != 1 or answers or authorities:
        raise MalformedError("no plain question")
    labels, at = [], _QUESTION_AT
    while True:
        length = _byte(data, at)
        if length > _LABEL_MAX:
            raise MalformedError("a name that points elsewhere")
        at += 1 + length
        if at - _QUESTION_AT > _NAME_MAX:
            raise MalformedError("a name too long")
        if not length:
            break
        labels.append(_text(data[at - length : at]))
    if len(data) < at + 4:
        raise MalformedError("cut short")
    kind, klass = struct.unpack_from(">HH", data, at)
    wire = data[_QUESTION_AT : at + 4]
    return Question(number=number, name=".".join(labels), kind=kind, klass=klass, wire=wire)


def ask(question: Question, number: int) -> bytes:
    """Return the same question as a message of our own."""
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + question.wire


def reply(
    question: Question, code: int, addresses: Collection[IPv4Address] = (), ttl_s: int = 0
) -> bytes:
    """Return an answer: the question, and an address record for each address."""
    flags = _RESPONSE | _RECURSION_DESIRED | _RECURSION_AVAILABLE | code
    data = _HEADER.pack(question.number, flags, 1, len(addresses), 0, 0) + question.wire
    for address in addresses:
        # The owner's name is the question's, by a pointer to it.
        data += b"\xc0\x0c" + _RECORD.pack(A, IN, ttl_s, 4) + address.packed
    return data


def truncated(question: Question) -> bytes:
    """Return the answer that says: ask again over TCP."""
    flags = _RESPONSE | _RECURSION_DESIRED | _RECURSION_AVAILABLE | _TRUNCATED
    return _HEADER.pack(question.number, flags, 1, 0, 0, 0) + question.wire


def read_addresses(data: bytes, asked: Question, number: int) -> Addresses:
    """Return what an answer to our question says. Raises: MalformedError if it is none."""
    flags, at, answers = _answer(data, asked, number)
    code = flags & 0xF
    if flags & _TRUNCATED:
        return Addresses(code=code, truncated=True)
    found: list[IPv4Address] = []
    ttls: list[int] = []
    for _ in range(min(answers, RECORDS_MAX)):
        at = _skip_name(data, at)
        if len(data) < at + _RECORD.size:
            raise MalformedError("cut short")
        kind, klass, ttl_s, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if len(data) < at + length:
            raise MalformedError("cut short")
        if kind == A and klass == IN:
            if length != 4:  # noqa: PLR2004 - bytes of an address
                raise MalformedError("an address that is none")
            found.append(IPv4Address(data[at : at + length]))
        if klass == IN:
            ttls.append(ttl_s if ttl_s < 1 << 31 else 0)
        at += length
    return Addresses(
        code=code, addresses=tuple(dict.fromkeys(found))[:ADDRESSES_MAX], ttl_s=min(ttls, default=0)
    )


def passed_on(data: bytes, asked: Question, number: int) -> bytes:
    """Return an answer of any kind under the asker's number. Raises: MalformedError if it is none."""
    _answer(data, asked, number)
    return struct.pack(">H", asked.number) + data[2:]


def _answer(data: bytes, asked: Question, number: int) -> tuple[int, int, int]:
    """Return the flags, where the answers begin, and how many there are."""
    told, flags, questions, answers, _, _ = _header(data)
    at = _QUESTION_AT + len(asked.wire)
    same = data[_QUESTION_AT:at].lower() == asked.wire.lower()
    if told != number or not flags & _RESPONSE or questions != 1 or not same:
        raise MalformedError("no answer to what was asked")
    return flags, at, answers


def _header(data: bytes) -> tuple[int, int, int, int, int, int]:
    if len(data) < _HEADER.size:
        raise MalformedError("cut short")
    number, flags, questions, answers, authorities, more = _HEADER.unpack_from(data)
    return number, flags, questions, answers, authorities, more


def _skip_name(data: bytes, at: int) -> int:
    """Return where a name ends. It is not read, so pointers need not be followed."""
    while True:
        length = _byte(data, at)
        if length & _POINTER == _POINTER:
            return at + 2
        if length > _LABEL_MAX:
            raise MalformedError("a label of no known kind")
        at += 1 + length
        if not length:
            return at


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise MalformedError("cut short")
    return data[at]


def _text(label: bytes) -> str:
    """Return a label in lower case. One with a dot or beyond ASCII would be mistaken for another name."""
    if b"." in label or not label.isascii():
        raise MalformedError("a label that is no host's")
    return label.lower().decode("ascii")
