"""What a store of objects promises, wherever it keeps them: in a directory, a bucket, or in copies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.manifests import ChunkFrame
from glowplug_imagecache.objects import SEAL_BYTES, digest_of, frame_of
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.store import LEASE_GRACE_S, Store

from tests.support.builders_images import a_store
from tests.support.clusters import replicas
from tests.support.shared_stores import a_shared_store

OWNER, OTHER = WorkspaceId("w"), WorkspaceId("v")
LATER = time.time() + 1_000_000.0


@pytest.fixture(params=["directory", "bucket", "replicas"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "directory":
        yield a_store(tmp_path, blob_bytes_max=100_000)
        return
    if request.param == "replicas":
        with replicas(tmp_path) as members:
            yield members[1].store(blob_bytes_max=100_000)
        return
    with a_shared_store(request.getfixturevalue("weed"), tmp_path, blob_bytes_max=100_000) as store:
        yield store


def put(
    store: Store, data: bytes, keep_until: float | None = None, owner: WorkspaceId | None = None
) -> Digest:
    digest = digest_of(data)
    with store.open_upload(digest, owner=owner) as upload:
        upload.write(data)
        upload.finish(keep_until)
    return digest


def sweep(store: Store, now: float) -> int:
    removed = store.sweep(now)
    return removed + (store.sweep_leases(now) if isinstance(store, SharedStore) else 0)


def test_chunks_come_back_and_those_that_are_missing_are_named(store: Store) -> None:
    here, other, gone = frame_of(b"here"), frame_of(b"other" * 1000), frame_of(b"gone")
    assert store.put_chunks([here, other]) == 2
    assert store.put_chunks([here, other]) == 0
    assert store.missing([here.digest, gone.digest, other.digest]) == [gone.digest]
    assert store.chunk(here.digest) == here
    assert store.chunk(other.digest) == other
    assert store.chunk(gone.digest).stored is None
    sizes = store.chunk_sizes([here.digest, gone.digest])
    assert sizes == {here.digest: len(here.stored or b"") + SEAL_BYTES}
    assert store.missing([]) == []


@pytest.mark.parametrize("stored", [frame_of(b"b").stored, b"no zstd frame", None])
def test_a_chunk_that_is_not_what_it_says_is_refused(store: Store, stored: bytes | None) -> None:
    frame = ChunkFrame(digest_of(b"a"), 1, stored)
    with pytest.raises(InvalidRequestError, match="not what"):
        store.put_chunks([frame])
    assert store.missing([frame.digest]) == [frame.digest]


def test_a_blob_has_the_bytes_of_its_name_or_is_not_there(store: Store) -> None:
    digest = put(store, b"blob")
    assert store.blob(digest) == b"blob"
    assert store.blob_size(digest) == 4
    with store.open_upload(digest_of(b"x")) as upload:
        upload.write(b"y")
        with pytest.raises(InvalidRequestError, match="not what"):
            upload.finish(None)
    with store.open_upload(digest_of(b"left")) as upload:
        upload.write(b"left")
    for absent in (b"x", b"left", b"never"):
        assert store.blob_size(digest_of(absent)) is None
        with pytest.raises(NotFoundError):
            store.blob_path(digest_of(absent))
    with pytest.raises(InvalidRequestError, match="at most"):
        put(store, b"long" * 50_000)


def test_a_workspaces_blobs_are_not_there_for_others(store: Store) -> None:
    mine, leased = put(store, b"mine", owner=OWNER), put(store, b"leased", LATER, OWNER)
    for digest in (mine, leased):
        for owner in (OTHER, None):
            assert store.blob_size(digest, owner) is None
            assert not store.extend(digest, LATER, owner)
            assert not store.keep(digest, owner)
            with pytest.raises(NotFoundError):
                store.blob_path(digest, owner)
    assert store.blob_path(mine, OWNER).read_bytes() == b"mine"
    assert store.blob_path(leased, OWNER).read_bytes() == b"leased"
    assert store.kept_bytes(OWNER) == 10
    assert store.kept_bytes(OTHER) == 0


def test_leases_end_only_grow_and_are_nothing_to_what_is_kept(store: Store) -> None:
    now = time.time()
    ends, grows, kept = (
        put(store, b"ends", now + 100, OWNER),
        put(store, b"grows", now + 1000, OWNER),
        put(store, b"kept", now + 100, OWNER),
    )
    put(store, b"grows", now + 100, OWNER)
    assert store.extend(grows, now + 100, OWNER)
    assert store.keep(kept, OWNER)
    assert store.keep(kept, OWNER)
    forever = put(store, b"forever")
    put(store, b"forever", now + 100)
    assert sweep(store, now + 90) == 0
    assert sweep(store, now + 100 + LEASE_GRACE_S + 5) == 1
    assert store.blob_size(ends, OWNER) is None
    assert not store.extend(ends, LATER, OWNER)
    assert store.blob_size(grows, OWNER) == 5
    assert store.extend(grows, now + 2000, OWNER)
    assert sweep(store, now + 1500) == 0
    assert sweep(store, now + 2000 + LEASE_GRACE_S + 5) == 1
    for digest, owner in ((kept, OWNER), (forever, None)):
        assert store.blob_path(digest, owner).exists()


def test_times_say_when_a_blob_was_wanted_or_until_when_it_is_leased(store: Store) -> None:
    now = time.time()
    digest = put(store, b"blob")
    at = store.used_at(digest)
    assert at is not None
    assert now - 5 <= at <= time.time() + 5
    assert store.extend(digest, LATER)
    assert abs((store.used_at(digest) or 0) - LATER) < 2
    store.disown(digest, now)  # leased: it stays
    assert abs((store.used_at(digest) or 0) - LATER) < 2
    given_up = put(store, b"given up")
    store.disown(given_up, time.time() + 10)
    assert store.used_at(given_up) == 1.0
    store.blob_path(given_up, wanted=False)  # somebody only looks
    assert store.used_at(given_up) == 1.0
    assert store.used_at(digest_of(b"never")) is None
