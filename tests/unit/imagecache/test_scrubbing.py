"""Scrubbing finds every changed byte, takes it away, and says who is hurt."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest
import zstandard
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.manifests import encode_manifest
from glowplug_contracts.messages.image import BaseImage
from glowplug_contracts.trees import FlatTree, StoredObject, encode_tree
from glowplug_imagecache.objects import digest_of, frame_of
from glowplug_imagecache.scrub import Check, Checked, Progress
from glowplug_imagecache.scrubbing import Scrubber
from glowplug_imagecache.store import Store

from tests.support.builders_images import a_file, a_manifest, a_store, chunk_file

OWNER = WorkspaceId("w-1")
ALL = Check("", 1 << 40)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def an_image(store: Store, *contents: bytes) -> Digest:
    store.put_chunks([frame_of(content) for content in contents])
    files = (a_file(f"f{n}", content) for n, content in enumerate(contents))
    return store.add_blob(encode_manifest(a_manifest(*files)))


def upload(store: Store, data: bytes, owner: WorkspaceId | None, until: float | None) -> None:
    with store.open_upload(digest_of(data), owner=owner) as opened:
        opened.write(data)
        opened.finish(until)


def everything(root: Path) -> list[Path]:
    return sorted(
        path
        for room in ("blobs", "chunks", "leased", "workspaces")
        for path in (root / room).rglob("*")
        if path.is_file()
    )


def test_all_of_an_intact_store_is_read_and_nothing_found(store: Store, tmp_path: Path) -> None:
    an_image(store, b"one", b"two")
    upload(store, b"kept", OWNER, None)
    upload(store, b"leased", OWNER, 2e9)
    upload(store, b"platform", None, 2e9)
    files = everything(tmp_path)
    eyes = Scrubber(store)
    size = sum(path.stat().st_size for path in files)
    last = str(max(str(path.relative_to(tmp_path)) for path in files))
    assert eyes.check(ALL) == Checked(last, len(files), size, (), ended=True)
    assert eyes.assess(()) == ()


def test_a_flip_of_any_byte_of_any_file_is_found(tmp_path: Path) -> None:
    chance = random.Random(7)
    for number in range(30):
        root = tmp_path / str(number)
        store = a_store(root)
        an_image(store, b"a" * 3_000, chance.randbytes(300))
        upload(store, chance.randbytes(2_000), OWNER, 2e9)
        path = chance.choice(everything(root))
        data = bytearray(path.read_bytes())
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        # A frame has bits that mean nothing: it still gives the bytes that its name says.
        harmless = path.parts[-3] == "chunks" and gives_its_bytes(path)
        found = Scrubber(store).check(ALL)
        if harmless:
            assert found.corrupt == ()
            continue
        assert found.corrupt == (str(path.relative_to(root)),), (path, at)
        assert not path.exists()
        assert [each.name for each in (root / "quarantine").iterdir()] == [path.name]


def gives_its_bytes(path: Path) -> bool:
    try:
        return digest_of(zstandard.ZstdDecompressor().decompress(path.read_bytes())) == path.name
    except zstandard.ZstdError:
        return False


def test_it_goes_on_where_it_was_and_reads_everything_once(store: Store, tmp_path: Path) -> None:
    an_image(store, *(os.urandom(200) for _ in range(12)))
    for owner in ("a", "a-b", "b"):
        upload(store, b"kept", WorkspaceId(owner), None)
        upload(store, b"leased", WorkspaceId(owner), 2e9)
    eyes, files, after, ended = Scrubber(store), 0, "", False
    steps = 0
    while not ended:
        found = eyes.check(Check(after, 1))
        assert found.after >= after
        files, after, ended = files + found.files, found.after, found.ended
        steps += 1
    assert files == len(everything(tmp_path))
    assert steps >= files


def test_an_image_that_lacks_a_chunk_is_hurt_and_others_are_not(
    store: Store, tmp_path: Path
) -> None:
    hurt = an_image(store, b"common", b"broken")
    an_image(store, b"common")
    chunk_file(tmp_path, digest_of(b"broken")).write_bytes(b"rotten")
    eyes = Scrubber(store)
    found = eyes.check(ALL)
    (one,) = eyes.assess(found.corrupt)
    assert (one.digest, one.missing) == (hurt, 1)
    store.put_chunks([frame_of(b"broken")])
    assert eyes.assess(found.corrupt) == ()


def test_an_image_without_its_manifest_is_hurt(store: Store, tmp_path: Path) -> None:
    image = an_image(store, b"content")
    (tmp_path / "blobs" / image[:2] / image).write_bytes(b"rotten")
    eyes = Scrubber(store)
    found = eyes.check(ALL)
    (one,) = eyes.assess(found.corrupt)
    assert (one.digest, one.missing) == (image, 0)


def a_based_image(store: Store, content: bytes, *below: bytes) -> tuple[Digest, Digest]:
    """Return an image and the tree that it stands on."""
    store.put_chunks([frame_of(each) for each in (content, *below)])
    pieces = (StoredObject(bytes.fromhex(digest_of(each)), len(each)) for each in below)
    tree = store.add_blob(encode_tree(FlatTree(entries=(), pieces=tuple(pieces))))
    base = BaseImage(reference="r", platform="linux/amd64", tree=tree, python="/bin/python3")
    manifest = msgspec.structs.replace(a_manifest(a_file("f", content)), base=base)
    return store.add_blob(encode_manifest(manifest)), tree


def test_images_are_hurt_by_what_their_base_lacks(store: Store, tmp_path: Path) -> None:
    first, tree = a_based_image(store, b"a", b"below", b"sound")
    second, same = a_based_image(store, b"b", b"below", b"sound")
    a_based_image(store, b"c", b"sound")
    assert tree == same
    eyes = Scrubber(store)
    assert eyes.check(ALL).corrupt == ()
    assert eyes.assess(()) == ()
    chunk_file(tmp_path, digest_of(b"below")).write_bytes(b"rotten")
    found = eyes.check(ALL)
    assert {(one.digest, one.missing) for one in eyes.assess(found.corrupt)} == {
        (first, 1),
        (second, 1),
    }
    store.put_chunks([frame_of(b"below")])
    (tmp_path / "blobs" / tree[:2] / tree).write_bytes(b"rotten")
    found = eyes.check(ALL)
    # The images are told, not the tree, which no workspace has.
    assert {one.digest for one in eyes.assess(found.corrupt)} == {first, second}


def test_what_was_stored_anew_meanwhile_is_not_taken_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_image(store, b"content")
    path = chunk_file(tmp_path, digest_of(b"content"))
    path.write_bytes(b"rotten")
    eyes = Scrubber(store)
    take_away = eyes._take_away

    def late(found_at: Path, found: object) -> bool:
        fresh = tmp_path / "fresh"
        fresh.write_bytes(frame_of(b"content").stored or b"")
        fresh.rename(path)
        return take_away(found_at, found)  # type: ignore[arg-type]

    monkeypatch.setattr(eyes, "_take_away", late)
    assert eyes.check(ALL).corrupt == ()
    assert store.chunk(digest_of(b"content")).stored is not None


def test_names_that_are_not_ours_are_left_alone(store: Store, tmp_path: Path) -> None:
    an_image(store, b"content")
    stranger = chunk_file(tmp_path, digest_of(b"content")).parent / ".nfs0000001"
    stranger.write_bytes(b"")
    assert Scrubber(store).check(ALL).corrupt == ()
    assert stranger.exists()


def test_how_far_it_is_survives_and_nonsense_begins_anew(store: Store, tmp_path: Path) -> None:
    eyes = Scrubber(store)
    assert eyes.load() == Progress()
    eyes.save(Progress(began_at=5.0, after="chunks/ab/x", files=7))
    assert Scrubber(store).load() == Progress(began_at=5.0, after="chunks/ab/x", files=7)
    (tmp_path / "scrub.json").write_bytes(b"\xff{")
    assert eyes.load() == Progress()


def test_the_quarantine_is_emptied_after_a_while(store: Store, tmp_path: Path) -> None:
    an_image(store, b"content")
    path = chunk_file(tmp_path, digest_of(b"content"))
    store.quarantine(path)
    put_at = (tmp_path / "quarantine" / path.name).stat().st_ctime
    store.sweep(put_at + 29 * 86_400)
    assert list((tmp_path / "quarantine").iterdir())
    store.sweep(put_at + 31 * 86_400)
    assert not list((tmp_path / "quarantine").iterdir())
