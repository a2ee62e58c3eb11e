"""Removing from the store: what somebody wants at the last moment stays, whoever dies."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.manifests import ChunkFrame, encode_manifest
from glowplug_contracts.messages.image import BaseImage
from glowplug_contracts.trees import FlatTree, StoredObject, encode_tree
from glowplug_imagecache.evicting import LOCK, Evictor
from glowplug_imagecache.eviction import DropImages, Dropped, DropTrees, Sweep
from glowplug_imagecache.files import has_image, read_manifest
from glowplug_imagecache.locking import only_one
from glowplug_imagecache.objects import SEAL_BYTES, digest_of, frame_of
from glowplug_imagecache.stock import SourceSeen
from glowplug_imagecache.store import Store

from tests.support.builders_images import a_file, a_manifest, a_store, chunk_file

NOW = time.time()
LONG_AGO = NOW - 10_000
CUTOFF = NOW - 1_000
FRAME = frame_of(b"content")
OWNER = WorkspaceId("w")


def kept_size(frame: ChunkFrame) -> int:
    return len(frame.stored or b"") + SEAL_BYTES


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Digest:
    """An image that nobody used for long."""
    store.put_chunks([FRAME])
    digest = store.add_blob(encode_manifest(a_manifest(a_file("a", b"content"))))
    grow_old(chunk_file(tmp_path, FRAME.digest))
    grow_old(blob_file(tmp_path, digest))
    return digest


def blob_file(root: Path, digest: Digest) -> Path:
    return root / "blobs" / digest[:2] / digest


def grow_old(path: Path) -> None:
    os.utime(path, (LONG_AGO, LONG_AGO))


def drop(digest: Digest) -> DropImages:
    return DropImages((Dropped(digest=digest, why="room"),), CUTOFF)


def sweep(*digests: Digest) -> Sweep:
    return Sweep(tuple(bytes.fromhex(digest) for digest in digests), (), CUTOFF)


def test_a_look_finds_images_and_what_they_name(store: Store, image: Digest) -> None:
    other = store.put_chunks([frame_of(b"other")])
    stock = Evictor(store).look()
    assert other == 1
    (seen,) = stock.images
    assert (seen.digest, seen.used_at) == (image, LONG_AGO)
    assert seen.objects is not None
    assert [stock.objects[place].digest.hex() for place in seen.objects] == [FRAME.digest]
    assert stock.size == seen.size + sum(map(kept_size, (FRAME, frame_of(b"other"))))


def test_a_tree_keeps_its_packs_and_pieces(store: Store) -> None:
    store.put_chunks([FRAME, frame_of(b"piece"), frame_of(b"else")])
    named = [digest_of(b"content"), digest_of(b"piece")]
    pack, piece = (StoredObject(bytes.fromhex(digest), 7) for digest in named)
    store.add_blob(encode_tree(FlatTree(entries=(), packs=(pack,), pieces=(piece,))))
    stock = Evictor(store).look()
    assert stock.images == ()
    (tree,) = stock.trees
    assert tree.objects is not None
    assert {stock.objects[place].digest.hex() for place in tree.objects} == set(named)


def test_what_nobody_can_read_is_said_to_be_so(store: Store) -> None:
    store.add_blob(b"no manifest")
    store.add_blob(encode_tree(FlatTree(format=99, entries=())))
    assert [image.objects for image in Evictor(store).look().images] == [None, None]


def test_a_base_that_nobody_can_read_is_no_image_that_could_go(store: Store) -> None:
    tree = store.add_blob(encode_tree(FlatTree(format=99, entries=())))
    base = BaseImage(reference="r", platform="linux/amd64", tree=tree, python="/bin/python3")
    image = store.add_blob(encode_manifest(msgspec.structs.replace(a_manifest(), base=base)))
    stock = Evictor(store).look()
    assert [(one.digest, one.base) for one in stock.images] == [(image, tree)]
    assert [(one.digest, one.objects) for one in stock.trees] == [(tree, None)]


def test_a_tree_that_somebody_wants_at_the_last_moment_is_put_back(
    store: Store, tmp_path: Path
) -> None:
    tree = store.add_blob(encode_tree(FlatTree(entries=())))
    base = BaseImage(reference="r", platform="linux/amd64", tree=tree, python="/bin/python3")
    image = store.add_blob(encode_manifest(msgspec.structs.replace(a_manifest(), base=base)))
    hands = Evictor(store)
    grow_old(blob_file(tmp_path, tree))
    read_manifest(store, ImageDigest(image), wanted=False)  # a look keeps nothing alive
    assert blob_file(tmp_path, tree).stat().st_mtime == LONG_AGO
    read_manifest(store, ImageDigest(image))
    assert hands.drop_trees(DropTrees((tree,), CUTOFF)) == frozenset()
    assert store.blob_size(tree) is not None
    grow_old(blob_file(tmp_path, tree))
    assert hands.drop_trees(DropTrees((tree,), CUTOFF)) == {tree}
    with pytest.raises(NotFoundError, match="the tree of r is gone"):
        read_manifest(store, ImageDigest(image))
    assert not has_image(store, ImageDigest(image))


def test_an_image_is_removed_with_what_only_it_needs(
    store: Store, image: Digest, tmp_path: Path
) -> None:
    hands = Evictor(store)
    assert hands.drop_images(drop(image)) == {image}
    assert store.blob_size(image) is None
    swept = hands.sweep(sweep(FRAME.digest))
    assert (swept.count, swept.size) == (1, kept_size(FRAME))
    assert store.missing([FRAME.digest]) == [FRAME.digest]
    assert list((tmp_path / "doomed").iterdir()) == []


def test_an_image_used_after_the_decision_is_put_back(store: Store, image: Digest) -> None:
    decided = drop(image)
    store.blob(image)
    assert Evictor(store).drop_images(decided) == frozenset()
    assert store.blob_size(image) is not None


def test_a_leased_image_is_put_back(store: Store, image: Digest) -> None:
    store.extend(image, NOW + 500)
    assert Evictor(store).drop_images(drop(image)) == frozenset()


def test_a_chunk_asked_for_after_the_decision_stays(store: Store, image: Digest) -> None:
    decided = sweep(FRAME.digest)
    assert store.missing([FRAME.digest]) == []
    assert Evictor(store).sweep(decided).count == 0
    assert store.chunk(FRAME.digest) == FRAME


def test_a_chunk_put_again_after_the_decision_stays(store: Store, image: Digest) -> None:
    assert store.put_chunks([FRAME]) == 0
    assert Evictor(store).sweep(sweep(FRAME.digest)).count == 0


def test_what_a_dead_evictor_had_in_its_hands_is_put_back(
    store: Store, image: Digest, tmp_path: Path
) -> None:
    blob_file(tmp_path, image).rename(tmp_path / "doomed" / f"blobs.{image[:2]}.{image}")
    chunk = chunk_file(tmp_path, FRAME.digest)
    chunk.rename(tmp_path / "doomed" / f"chunks.{FRAME.digest[:2]}.{FRAME.digest}")
    Evictor(store).recover()
    assert store.blob_size(image) is not None
    assert store.missing([FRAME.digest]) == []
    assert list((tmp_path / "doomed").iterdir()) == []


def test_what_came_again_is_not_replaced_by_what_was_doomed(
    store: Store, image: Digest, tmp_path: Path
) -> None:
    chunk = chunk_file(tmp_path, FRAME.digest)
    chunk.rename(tmp_path / "doomed" / f"chunks.{FRAME.digest[:2]}.{FRAME.digest}")
    store.put_chunks([FRAME])
    Evictor(store).recover()
    assert chunk.stat().st_mtime > CUTOFF
    assert list((tmp_path / "doomed").iterdir()) == []


def test_a_workspaces_source_goes_and_nobody_elses(store: Store, tmp_path: Path) -> None:
    for owner in (OWNER, WorkspaceId("other")):
        upload = store.open_upload(digest_of(b"zip"), owner=owner)
        with upload:
            upload.write(b"zip")
            upload.finish(None)
        grow_old(store.blob_path(digest_of(b"zip"), owner))
    source = SourceSeen(owner=OWNER, digest=digest_of(b"zip"), used_at=LONG_AGO, size=3)
    assert len(Evictor(store).look().sources) == 2
    assert Evictor(store).sweep(Sweep((), (source,), CUTOFF)).count == 1
    assert store.blob_size(digest_of(b"zip"), OWNER) is None
    assert store.blob_size(digest_of(b"zip"), WorkspaceId("other")) == 3


def test_one_evicts_at_a_time(store: Store) -> None:
    lock = store.root / LOCK
    with only_one(lock) as first, only_one(lock) as second:
        assert (first, second) == (True, False)
    with only_one(lock) as third:
        assert third


def test_a_lease_outlives_being_kept_and_stored_again(store: Store) -> None:
    digest = digest_of(b"zip")
    for until in (NOW + 5_000, None, None):
        with store.open_upload(digest, owner=OWNER) as upload:
            upload.write(b"zip")
            upload.finish(until)
    (seen,) = Evictor(store).look().sources
    assert seen.used_at == pytest.approx(NOW + 5_000)
