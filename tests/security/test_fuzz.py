"""What reads strangers' bytes takes them or refuses them in its own words, whatever they are.

Every reader gets good bytes with a few changes, made by a seed: the same ones in every run. `just fuzz 100000`
makes as many as asked for, of a fresh seed. What was found so is in FOUND, and stays refused.
"""

from __future__ import annotations

import io
import os
import random
import tracemalloc
import zipfile

import msgspec
import pytest
from glowplug_worker.frames import BODY_BYTES_MAX, FrameReader, Hello, encode_frame

from tests.security.fuzz.engine import Found, Reader, fuzz, try_one
from tests.security.fuzz.readers import readers

READERS = {one.name: one for one in readers()}
TIMES = int(os.environ.get("GLOWPLUG_FUZZ", "300"))
SEED = int(os.environ.get("GLOWPLUG_FUZZ_SEED", "1"))
CONTROL = "test_a_fault_is_found: the same changes find one that was planted"
pytestmark = pytest.mark.attempt(control=CONTROL)

DEEP = b"[" * 200_000


def zipped(name: str, way: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", way) as archive:
        archive.writestr(name, b"pass\n" * 100)
    return buffer.getvalue()


FOUND = {
    "JSON nested beyond the stack, in a field that nobody reads": ("deployments", b'{"x":' + DEEP),
    "bytes that are no UTF-8 in a deployment": ("deployments", b'{"name":"\xff"}'),
    "a message nested beyond the stack": ("message kv-tokens.v1", b'{"x":' + DEEP),
    "msgpack nested beyond the stack": (
        "message link-CallSent.v1",
        b"\x81\xa1x" + b"\x91" * 200_000,
    ),
    "bytes that are no UTF-8 in a message": ("message kv-tokens.v1", b'{"name":"\xff\xfe"}'),
    "bytes that are no UTF-8 in an attribute of an event": (
        "events",
        b'{"specversion":"1.0","id":"1","source":"\xff","type":"a"}',
    ),
    "a result that says it is JSON and is none": ("answers of functions", b'{"statusCode":200,'),
    "a status of 5,000 digits": (
        "answers of functions",
        b'{"statusCode":"' + b"9" * 5_000 + b'"}',
    ),
    "a zip whose directory is no UTF-8": (
        "sources",
        zipped("é.py").replace("é".encode(), b"\xff\xfe"),
    ),
    "a zip that is packed so that its reader fails as a disk does": (
        "sources",
        zipped("a.py", zipfile.ZIP_BZIP2).replace(b"1AY&SY", b"1AY&SX"),
    ),
    "a zip whose reader asks for gigabytes": ("sources", zipped("a.py", zipfile.ZIP_LZMA)),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_comes_is_taken_or_refused(name):
    reader = READERS[name]
    found = fuzz(reader, SEED, TIMES)
    assert found.findings == {}
    # Both happen, or the changes would show nothing.
    assert found.taken
    assert found.refused or not reader.refusals


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_stays_refused(what):
    name, data = FOUND[what]
    found = Found()
    try_one(READERS[name], data, found)
    assert (found.findings, found.refused) == ({}, 1)


def test_a_fault_is_found():
    def faulty(data: bytes) -> None:
        if b"\r\n" in data and len(data) > 20:
            raise KeyError("planted")

    planted = Reader("planted", (b"a good and plain text",), faulty, (ValueError,))
    assert list(fuzz(planted, SEED, 500).findings) == ["KeyError in faulty"]
    other = fuzz(msgspec.structs.replace(planted, name="another"), SEED, 500)
    assert (
        other.findings == fuzz(msgspec.structs.replace(planted, name="another"), SEED, 500).findings
    )


def test_a_frame_that_comes_byte_by_byte_costs_a_byte_each():
    """A runner that drips must not make its worker copy what is there already, again for each byte."""
    reader = FrameReader()
    whole = encode_frame(Hello(pid=1, python="3"), random.Random(1).randbytes(BODY_BYTES_MAX))
    tracemalloc.start()
    try:
        assert list(reader.feed(whole[:-2_000])) == []
        assert list(reader.feed(whole[-2_000:-1_000])) == []
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for at in range(len(whole) - 1_000, len(whole) - 900):
            assert list(reader.feed(whole[at : at + 1])) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - kept < BODY_BYTES_MAX // 4
    [(header, body)] = reader.feed(whole[-900:])
    assert (header, len(body)) == (Hello(pid=1, python="3"), BODY_BYTES_MAX)
