"""The store names only what it verified, and gives out only what matches its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame
from glowplug_imagecache.objects import digest_of, frame_of
from glowplug_imagecache.store import LEASE_GRACE_S, Store

from tests.support.builders_images import a_store, chunk_file

NOW = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def put(store: Store, data: bytes, keep_until: float | None = None) -> Digest:
    digest = digest_of(data)
    with store.open_upload(digest) as upload:
        upload.write(data)
        upload.finish(keep_until)
    return digest


def kept_files(root: Path) -> list[str]:
    return sorted(path.parent.parent.name for path in root.glob("*/*/*") if path.is_file())


def test_gives_back_chunks_and_says_which_it_lacks(store: Store) -> None:
    here, gone = frame_of(b"here"), frame_of(b"gone")
    assert store.put_chunks([here]) == 1
    assert store.put_chunks([here]) == 0
    assert store.missing([here.digest, gone.digest]) == [gone.digest]
    assert store.chunk(here.digest) == here
    assert store.chunk(gone.digest).stored is None


@pytest.mark.parametrize(
    "frame",
    [
        ChunkFrame(digest_of(b"a"), 1, frame_of(b"b").stored),
        ChunkFrame(digest_of(b"a"), 1, b"no zstd frame"),
        ChunkFrame(digest_of(b"a"), 1, None),
    ],
)
def test_refuses_a_chunk_that_is_not_what_it_says(
    store: Store, tmp_path: Path, frame: ChunkFrame
) -> None:
    with pytest.raises(InvalidRequestError, match="not what"):
        store.put_chunks([frame])
    assert kept_files(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_corrupt_chunk_is_missing_from_then_on_and_can_be_stored_again(
    store: Store, tmp_path: Path
) -> None:
    frame = frame_of(b"precious" * 100)
    store.put_chunks([frame])
    chunk_file(tmp_path, frame.digest).write_bytes(frame_of(b"other").stored or b"")
    assert store.chunk(frame.digest).stored is None
    assert store.missing([frame.digest]) == [frame.digest]
    assert (tmp_path / "quarantine" / frame.digest).exists()
    store.put_chunks([frame])
    assert store.chunk(frame.digest) == frame


def test_keeps_a_blob_and_never_names_other_bytes(store: Store, tmp_path: Path) -> None:
    digest = put(store, b"blob")
    assert store.blob(digest) == b"blob"
    assert store.blob_size(digest) == 4
    with store.open_upload(digest_of(b"x")) as upload:
        upload.write(b"y")
        with pytest.raises(InvalidRequestError, match="not what"):
            upload.finish(None)
    assert store.blob_size(digest_of(b"x")) is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_upload_that_is_left_stays_nowhere(store: Store, tmp_path: Path) -> None:
    with store.open_upload(digest_of(b"x")) as upload:
        upload.write(b"x")
    assert kept_files(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("keep_until", [None, NOW])
def test_a_corrupt_blob_is_not_given_out(
    store: Store, tmp_path: Path, keep_until: float | None
) -> None:
    digest = put(store, b"blob", keep_until)
    path = store.blob_path(digest)
    path.write_bytes(b"blub")
    with pytest.raises(NotFoundError):
        store.blob_path(digest)
    assert (tmp_path / "quarantine" / digest).read_bytes() == b"blub"


def test_sweeps_expired_leases_and_keeps_the_rest(store: Store) -> None:
    expired = put(store, b"expired", keep_until=NOW)
    leased = put(store, b"leased", keep_until=NOW + 1000)
    forever = put(store, b"forever")
    assert store.sweep(NOW + LEASE_GRACE_S + 1) == 1
    sizes = [store.blob_size(digest) for digest in (expired, leased, forever)]
    assert sizes == [None, len(b"leased"), len(b"forever")]


def test_a_lease_only_grows(store: Store) -> None:
    digest = put(store, b"blob", keep_until=NOW + 1000)
    put(store, b"blob", keep_until=NOW)
    assert store.extend(digest, NOW)
    assert store.sweep(NOW + 500) == 0
    assert store.sweep(NOW + 1000 + LEASE_GRACE_S + 1) == 1
    assert not store.extend(digest, NOW + 2000)


def test_what_is_kept_for_ever_is_never_leased(store: Store) -> None:
    digest = put(store, b"blob")
    put(store, b"blob", keep_until=NOW)
    assert store.sweep(NOW * 10) == 0
    assert store.blob(digest) == b"blob"


def test_a_leased_blob_can_be_kept_for_ever_later(store: Store) -> None:
    digest = put(store, b"blob", keep_until=NOW)
    put(store, b"blob")
    store.sweep(NOW * 10)
    assert store.blob(digest) == b"blob"


def test_a_lease_can_be_ended_by_keeping_the_blob(store: Store) -> None:
    digest = put(store, b"blob", keep_until=NOW)
    assert store.keep(digest)
    assert store.keep(digest)
    assert store.sweep(NOW * 10) == 0
    assert store.blob(digest) == b"blob"
    assert not store.keep(digest_of(b"never stored"))


def test_refuses_blobs_beyond_the_bound_said_or_unsaid(tmp_path: Path) -> None:
    store = a_store(tmp_path, blob_bytes_max=10)
    with pytest.raises(InvalidRequestError) as said:
        store.open_upload(digest_of(b"x"), 11)
    with store.open_upload(digest_of(b"x")) as upload:
        upload.write(bytes(6))
        with pytest.raises(InvalidRequestError) as unsaid:
            upload.write(bytes(5))
    assert {said.value.code, unsaid.value.code} == {"request.too_large"}


def test_takes_nothing_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    store = a_store(tmp_path, free_bytes_min=1 << 62)
    with pytest.raises(UnavailableError, match="bytes free"):
        store.open_upload(digest_of(b"x"), 1)
    with pytest.raises(UnavailableError):
        store.put_chunks([frame_of(b"x")])
