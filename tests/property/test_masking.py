"""What a command writes has no value of its secrets, wherever its pieces end, and lacks nothing else."""

from __future__ import annotations

from glowplug_worker.masking import MASK, PART_BYTES, SHORTEST, Mask, parts_of
from hypothesis import given
from hypothesis import strategies as st

# Few letters, so that values overlap, hold each other, and begin everywhere.
values = st.lists(st.text("abz\n", max_size=9), max_size=4)
pieces = st.lists(st.text("abz\n", max_size=12).map(str.encode), max_size=8)


def masked(secrets: list[str], given_pieces: list[bytes]) -> bytes:
    mask = Mask(secrets)
    return b"".join(mask.feed(piece) for piece in given_pieces) + mask.end()


def plainly(secrets: list[str], text: bytes) -> bytes:
    """Mark every byte that is in a value, and write MASK for each value or values that overlap."""
    parts = parts_of(secrets)
    found = sorted(
        (at, at + len(part))
        for part in parts
        for at in range(len(text))
        if text[at : at + len(part)] == part
    )
    told, at, until = b"", 0, -1
    for start, end in found:
        if start >= until:  # beside the one before, or apart from it
            told += text[at:start] + MASK
        at = until = max(at, end)
    return told + text[at:]


@given(values, pieces)
def test_pieces_make_no_difference(secrets: list[str], given_pieces: list[bytes]) -> None:
    assert masked(secrets, given_pieces) == plainly(secrets, b"".join(given_pieces))


@given(values, pieces)
def test_no_value_is_in_what_is_told(secrets: list[str], given_pieces: list[bytes]) -> None:
    told = masked(secrets, given_pieces).split(MASK)
    assert not [part for part in parts_of(secrets) for text in told if part in text]


@given(st.text("abz", min_size=SHORTEST, max_size=9), st.text("xy", max_size=9))
def test_only_what_may_become_a_value_is_held_back(secret: str, other: str) -> None:
    mask = Mask([secret])
    assert mask.feed(other.encode()) == other.encode()
    assert mask.feed(secret[:-1].encode() + b"x") == secret[:-1].encode() + b"x"
    assert mask.feed(secret[:-1].encode()) == b""
    assert mask.feed(secret[-1:].encode()) == MASK
    assert mask.end() == b""


def test_lines_of_a_value_and_parts_of_long_ones_are_looked_for() -> None:
    lines = "-----BEGIN-----\n  c2VjcmV0\n-----END-----\n"
    assert parts_of([lines]) == (b"-----BEGIN-----", b"c2VjcmV0", b"-----END-----")
    long = "".join(chr(97 + n * n % 26) for n in range(PART_BYTES + 9))
    assert masked([long], [b"is ", long[:700].encode(), long[700:].encode(), b"."]) == b"is ***."
    assert parts_of(["on", "", "\n"]) == ()
