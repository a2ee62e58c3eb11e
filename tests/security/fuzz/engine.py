"""Changes of good bytes by a seed, and what a reader made of them.

A reader returns for what it takes, and raises one of its refusals for what it does not. Anything else it
raises is a finding, named by what raised it; the bytes go into the corpus (`FOUND` of `test_fuzz.py`) when it is
fixed, so that it stays so.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Sequence

import msgspec

BYTES_MAX = 64 * 1024
CHANGES_MAX = 4
# What readers trip over: ends of lines and names, marks of formats, numbers at the edge, deep and long things.
WORDS = (
    b"", b"\0", b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\t", b".", b"..", b"../", b"/", b"\\", b"*", b">", b"%", b"%00",
    b"%2e%2e%2f", b"%ff", b":", b";", b",", b'"', b"'", b"{", b"}", b"[", b"]", b"[" * 3_000, b'{"a":' * 2_000,
    b"\x91" * 3_000, b"\x81\xa1a" * 2_000, b"null", b"true", b"-1", b"0", b"1e999", b"-0.0", b"NaN",
    b"9" * 30, b"9" * 5_000, b"\xff", b"\xff" * 8, b"\x80\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\\ud800",
    b"\\u0000", b"\xf0\x9f\x92\xa3",
    b"\xe2\x80\xae", b"\x1b[2J", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff",
    b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\0\0\0\x01", b"\xd9\xff", b"A" * 300, b"a." * 200, b"(a+)+$",
)  # fmt: skip


class Reader(msgspec.Struct, frozen=True):
    """Something that reads bytes of strangers.

    Attributes:
        seeds: bytes that it takes.
        read: takes bytes, and checks what must be true of what it made of them.
        refusals: what it may raise.
        weight: how many inputs it gets beside others (slow ones less).
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    weight: float = 1.0


class Found(msgspec.Struct):
    """What came of a reader's inputs."""

    taken: int = 0
    refused: int = 0
    findings: dict[str, bytes] = {}  # what raised → the first bytes that did


def changed(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, CHANGES_MAX)):
        _change(chance, data, seeds)
    return bytes(data[:BYTES_MAX])


def _change(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = chance.randint(0, len(data))
    to = min(len(data), at + chance.choice((1, 2, 4, 16, 256)))
    match chance.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        case 1 if data:
            data[at % len(data)] = chance.randrange(256)
        case 2:
            del data[at:to]
        case 3:
            data[at:at] = data[at:to] * chance.choice((1, 2, 50))
        case 4:
            data[at:at] = chance.choice(WORDS)
        case 5:
            data[at:to] = chance.choice(WORDS)
        case 6:
            other = chance.choice(seeds)
            cut = chance.randint(0, len(other))
            data[at:] = other[cut:]
        case _:
            del data[at:]


def try_one(reader: Reader, data: bytes, found: Found) -> None:
    """Let a reader read, and note what it made of it."""
    try:
        reader.read(data)
    except reader.refusals:
        found.refused += 1
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        where = traceback.extract_tb(error.__traceback__)[-1]
        found.findings.setdefault(f"{type(error).__name__} in {where.name}", data)
    else:
        found.taken += 1


def fuzz(reader: Reader, seed: int, times: int) -> Found:
    """Let a reader read so many changed inputs; the same seed makes the same ones."""
    chance = random.Random(f"{seed}/{reader.name}")
    found = Found()
    for good in reader.seeds:
        try_one(reader, good, found)
    assert found.refused == 0, f"{reader.name}: a seed is refused"
    for _ in range(max(1, round(times * reader.weight))):
        try_one(reader, changed(chance, reader.seeds), found)
    return found
