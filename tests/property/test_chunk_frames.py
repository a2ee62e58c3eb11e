"""Batches of chunks survive the wire however it cuts them; manifests survive encoding."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import ContractError
from glowplug_contracts.manifests import (
    BATCH_BYTES_MAX,
    BATCH_CHUNKS_MAX,
    CHUNK_BYTES,
    BatchReader,
    ChunkFrame,
    batch_bytes,
    decode_manifest,
    encode_manifest,
    group_by_size,
    plan_pieces,
)
from glowplug_imagecache.objects import digest_of, frame_of, raw_form
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders_images import a_dir, a_file, a_link, a_manifest

contents = st.binary(min_size=1, max_size=300)
names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20
).filter(lambda name: name not in {".", ".."})


@given(st.lists(st.one_of(contents, st.none()), max_size=8), st.data())
def test_a_batch_arrives_whole_in_whatever_pieces(
    bodies: list[bytes | None], data: st.DataObject
) -> None:
    frames = [
        ChunkFrame(digest_of(b"gone"), 0, None) if body is None else frame_of(body)
        for body in bodies
    ]
    wire = b"".join(map(batch_bytes, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    reader = BatchReader()
    arrived: list[ChunkFrame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        arrived += reader.feed(wire[start:end])
    reader.finish()
    assert arrived == frames


@given(contents, st.data())
def test_a_batch_that_ends_inside_a_chunk_is_refused(body: bytes, data: st.DataObject) -> None:
    wire = batch_bytes(frame_of(body))
    reader = BatchReader()
    assert list(reader.feed(wire[: data.draw(st.integers(1, len(wire) - 1))])) == []
    with pytest.raises(ContractError):
        reader.finish()


def test_a_chunk_longer_than_any_may_be_is_refused_before_it_is_held() -> None:
    head = bytes(32) + (2**31).to_bytes(4) + (10).to_bytes(4)
    with pytest.raises(ContractError):
        list(BatchReader().feed(head))


@given(contents, st.data())
def test_no_changed_byte_passes_for_the_content(body: bytes, data: st.DataObject) -> None:
    frame = frame_of(body)
    stored = bytearray(frame.stored or b"")
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))
    assert raw_form(frame.digest, bytes(stored)) in (None, body)


@given(st.integers(0, 20 * CHUNK_BYTES))
def test_pieces_cover_a_file_without_gap_or_overlap(size: int) -> None:
    pieces = plan_pieces(size)
    assert [at for at, _ in pieces] == list(range(0, size, CHUNK_BYTES))
    assert sum(length for _, length in pieces) == size
    assert all(0 < length <= CHUNK_BYTES for _, length in pieces)


@given(st.lists(st.integers(1, CHUNK_BYTES), max_size=60))
def test_batches_hold_everything_in_order_within_their_bounds(sizes: list[int]) -> None:
    named = {digest_of(str(n).encode()): size for n, size in enumerate(sizes)}
    batches = group_by_size(named)
    assert [digest for batch in batches for digest in batch] == list(named)
    for batch in batches:
        assert 0 < len(batch) <= BATCH_CHUNKS_MAX
        assert sum(named[digest] for digest in batch) <= BATCH_BYTES_MAX


@given(st.dictionaries(names, st.one_of(contents, st.just(b""), st.none()), max_size=8), st.data())
def test_a_manifest_round_trips_and_equal_trees_have_equal_bytes(
    tree: dict[str, bytes | None], data: st.DataObject
) -> None:
    entries = [a_dir("d"), a_link("d/up", "../d"), a_file("d/x", b"x")]
    entries += [
        a_dir(f"d/x-{name}") if body is None else a_file(f"d/x-{name}", body)
        for name, body in tree.items()
    ]
    shuffled = data.draw(st.permutations(entries))
    encoded = encode_manifest(a_manifest(*shuffled, env={"B": "1", "A": "2"}))
    assert encoded == encode_manifest(a_manifest(*entries, env={"A": "2", "B": "1"}))
    assert sorted(decode_manifest(encoded).entries, key=lambda e: e.path) == sorted(
        entries, key=lambda e: e.path
    )
