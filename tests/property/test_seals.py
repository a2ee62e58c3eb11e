"""Seals of stored chunks: whatever is damaged, nothing else is given out under a name."""

from __future__ import annotations

import blake3
import zstandard
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import CHUNK_BYTES, STORED_BYTES_MAX
from glowplug_imagecache.objects import SEAL_BYTES, frame_of, raw_form, sealed, unsealed
from glowplug_worker.images import objects as on_workers
from hypothesis import given
from hypothesis import strategies as st

CONTENTS = st.binary(min_size=1, max_size=2000)


def content_of(digest: Digest, kept: bytes) -> bytes | None:
    """Return what a worker makes of what the store gives out, or None where it gives nothing."""
    frame = unsealed(digest, kept)
    if frame is None or frame.stored is None:
        return None
    data = on_workers.raw_form(digest, frame.stored)
    assert frame.raw_size == len(data)
    return data


@given(CONTENTS, st.data())
def test_a_damaged_chunk_is_its_content_or_nothing(data: bytes, draw: st.DataObject) -> None:
    frame = frame_of(data)
    kept = bytearray(sealed(frame.digest, frame.stored or b""))
    at = draw.draw(st.integers(0, len(kept) - 1))
    kept[at] ^= draw.draw(st.integers(1, 255))
    found = content_of(frame.digest, bytes(kept))
    # A seal that is hurt is one that is not there: then the content is looked at.
    assert found == data if at >= len(kept) - SEAL_BYTES else found in {None, data}


@given(CONTENTS, st.integers(0, 3000))
def test_a_chunk_that_is_cut_off_is_its_content_or_nothing(data: bytes, length: int) -> None:
    frame = frame_of(data)
    kept = sealed(frame.digest, frame.stored or b"")
    assert content_of(frame.digest, kept[:length]) in {None, data}


@given(CONTENTS, CONTENTS)
def test_a_chunk_under_another_name_is_nothing(data: bytes, other: bytes) -> None:
    frame = frame_of(data)
    kept = sealed(frame.digest, frame.stored or b"")
    name = Digest(blake3.blake3(other).hexdigest())
    assert (unsealed(name, kept) is None) == (data != other)


@given(CONTENTS)
def test_what_is_kept_is_a_frame_as_before_and_needs_no_decoding(data: bytes) -> None:
    frame = frame_of(data)
    kept = sealed(frame.digest, frame.stored or b"")
    assert zstandard.ZstdDecompressor().decompress(kept) == data
    assert raw_form(frame.digest, kept) == data  # whoever knows no seals, such as an older release
    assert unsealed(frame.digest, kept) == frame
    # Kept by a release without seals:
    assert unsealed(frame.digest, frame.stored or b"") == frame


def test_the_longest_chunk_fits_with_its_seal() -> None:
    data = blake3.blake3(b"no repetition").digest(CHUNK_BYTES)
    frame = frame_of(data)
    kept = sealed(frame.digest, frame.stored or b"")
    assert len(kept) <= STORED_BYTES_MAX
    assert content_of(frame.digest, kept) == data
