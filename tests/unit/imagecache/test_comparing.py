"""What is said of one image, and of the difference between two."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.image import BaseImage, ImageRecord, ManifestEntry
from glowplug_contracts.trees import (
    BLOCK_BYTES,
    Directory,
    File,
    FlatTree,
    PackedFile,
    Run,
    StoredObject,
    Symlink,
    encode_tree,
)
from glowplug_imagecache.comparing import (
    LISTED_MAX,
    Change,
    Contents,
    Difference,
    Size,
    detail,
    find_record,
    view,
)
from glowplug_imagecache.comparing import compare as compare_hashing
from glowplug_imagecache.objects import digest_of, frame_of
from glowplug_imagecache.small_files import contents_of
from glowplug_imagecache.tree_views import Place

from tests.support.builders_images import a_dir, a_file, a_link, a_manifest, a_store

A, B = ImageDigest("a" * 64), ImageDigest("ab" * 32)


def compare(
    old: ImageDigest, before: Contents, new: ImageDigest, after: Contents, **small: bytes
) -> Difference:
    """Compare, where `small` says what the packs p, q … hold; others can't be read."""

    def hashed(places: Collection[Place]) -> dict[Place, bytes]:
        known = {name.encode() * 32: content for name, content in small.items()}
        return {place: known[place.pack] for place in places if place.pack in known}

    return compare_hashing(old, before, new, after, hashed)


def a_record(digest: ImageDigest = A) -> ImageRecord:
    return ImageRecord(
        image_digest=digest, workspace=WorkspaceId("w"), host="h", python_version="3.11"
    )


def holding(
    *entries: ManifestEntry, env: dict[str, str] | None = None, below: FlatTree | None = None
) -> Contents:
    manifest = a_manifest(*entries, env=env)
    if below is not None:
        base = BaseImage(
            reference=f"r/x@sha256:{len(below.entries)}",
            platform="linux/amd64",
            tree=digest_of(encode_tree(below)),
            python="/bin/python3",
            env={"A": "of the base"},
        )
        manifest = msgspec.structs.replace(manifest, base=base)
    return Contents(manifest=manifest, tree=below)


def test_an_image_is_found_by_the_beginning_of_its_digest() -> None:
    records = [a_record(A), a_record(B)]
    assert find_record(records, "aaaaaa").image_digest == A
    assert find_record(records, B).image_digest == B
    with pytest.raises(InvalidRequestError, match="6 or more"):
        find_record(records, "aaaaa")
    with pytest.raises(NotFoundError, match="image list"):
        find_record(records, "cccccc")
    with pytest.raises(InvalidRequestError, match="2 images begin"):
        find_record([a_record(A), a_record(ImageDigest("a" * 63 + "b"))], "aaaaaa")


def test_the_state_says_what_is_left() -> None:
    states = [
        view(a_record(), used_at=used_at, used_by=(), hurt=hurt).state
        for used_at, hurt in ((5.0, False), (5.0, True), (None, False))
    ]
    assert states == ["ready", "hurt", "gone"]


def test_a_detail_counts_what_is_distinct_stored_and_its_own() -> None:
    manifest = holding(a_file("a", b"1234"), a_file("b", b"1234"), a_file("c", b"56"), a_dir("d"))
    other = {digest_of(b"56")}
    seen = view(a_record(), used_at=1.0, used_by=("f v1", "f v1"), hurt=False)
    found = detail(seen, manifest, {digest_of(b"1234"): 40, digest_of(b"56"): 7}, other)
    assert (found.distinct_bytes, found.stored_bytes, found.own_bytes, found.missing) == (
        6,
        47,
        40,
        0,
    )
    assert found.largest[0] == Size(path="a", bytes=4)
    assert found.image.used_by == ("f v1",)
    assert detail(seen, manifest, {Digest(digest_of(b"56")): 7}, set()).missing == 1


def test_a_difference_names_paths_settings_and_bytes() -> None:
    before = holding(
        a_file("gone", b"123"), a_file("kept", b"4"), a_file("edited", b"56"), env={"A": "1"}
    )
    after = holding(
        a_file("kept", b"4"),
        a_file("edited", b"789"),
        a_link("new", "kept"),
        env={"A": "2", "B": "x"},
    )
    found = compare(A, before, B, after)
    assert found.changes == (
        Change(path="edited", how="changed", before=2, after=3),
        Change(path="gone", how="removed", before=3, after=0),
        Change(path="new", how="added", before=0, after=0),
    )
    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert (found.bytes_shared, found.bytes_removed, found.bytes_added) == (1, 5, 3)
    assert found.settings == {"env A": ("1", "2"), "env B": ("", "x")}


def test_a_mode_alone_is_a_change_and_equal_images_have_none() -> None:
    before = holding(a_file("a"))
    assert compare(A, before, A, before).changes == ()
    after = holding(a_file("a", mode=0o755))
    assert [one.how for one in compare(A, before, B, after).changes] == ["changed"]


def test_long_lists_are_cut_and_counted_whole() -> None:
    many = holding(*(a_dir(f"d{n:04}") for n in range(LISTED_MAX + 5)))
    found = compare(A, holding(), B, many)
    assert (len(found.changes), found.added) == (LISTED_MAX, LISTED_MAX + 5)


ROOT = Directory(0, b"", 0o755, 0, 0, 0, 0, ())
LARGE = 40_000


def a_tree(*, pack: bytes, piece: bytes, time: int = 5, extra: bool = False) -> FlatTree:
    """A root, a directory, and below it a large file, a small one in a pack, and a link."""
    owner = (0o644, 0, 0, time, 0, ())
    entries = [
        ROOT,
        Directory(0, b"usr", 0o755, 0, 0, time, 0, ()),
        File(1, b"large", *owner, LARGE, (Run(0, 0, 1),)),
        Symlink(1, b"link", 0o777, 0, 0, time, 0, (), b"large"),
        PackedFile(1, b"small", *owner, 9, 0, 0),
    ]
    if extra:
        entries.append(PackedFile(1, b"small2", *owner, 3, 0, 1))
    return FlatTree(
        entries=tuple(entries),
        packs=(StoredObject(pack * 32, 5_000),),
        pieces=(StoredObject(piece * 32, LARGE),),
    )


def test_a_detail_has_the_base_and_its_files() -> None:
    below = a_tree(pack=b"p", piece=b"f")
    contents = holding(a_file("own", b"12"), env={"B": "own"}, below=below)
    stored = {digest_of(b"12"): 9, Digest((b"p" * 32).hex()): 100, Digest((b"f" * 32).hex()): 200}
    seen = view(a_record(), used_at=1.0, used_by=(), hurt=False)
    found = detail(seen, contents, stored, {Digest((b"f" * 32).hex())})
    assert (found.distinct_bytes, found.stored_bytes, found.own_bytes) == (45_002, 309, 109)
    assert found.missing == 0
    assert [(one.path, one.bytes) for one in found.largest] == [
        ("/usr/large", LARGE),
        ("/usr/small", 9),
        ("own", 2),
    ]
    assert (found.base, found.platform) == ("r/x@sha256:5", "linux/amd64")
    assert found.env == {"A": "of the base", "B": "own"}
    torn = Contents(manifest=contents.manifest)
    assert detail(seen, torn, stored, set()).missing == 1
    assert compare(A, torn, B, holding()).changes == (
        Change(path="own", how="removed", before=2, after=0),
    )


def test_a_difference_of_bases_names_paths_from_the_root() -> None:
    before = holding(below=a_tree(pack=b"p", piece=b"f"))
    after = holding(a_file("own", b"1"), below=a_tree(pack=b"q", piece=b"g", extra=True))
    found = compare(A, before, B, after, p=b"same", q=b"same")
    assert found.changes == (
        Change(path="/usr/large", how="changed", before=LARGE, after=LARGE),
        Change(path="/usr/small2", how="added", before=0, after=3),
        Change(path="own", how="added", before=0, after=1),
    )
    assert found.settings == {"base": ("r/x@sha256:5", "r/x@sha256:6")}
    assert (found.bytes_shared, found.bytes_removed, found.bytes_added) == (0, 45_000, 45_001)
    gone = compare(A, before, B, holding())
    assert {one.path for one in gone.changes} == {
        "/",
        "/usr",
        "/usr/large",
        "/usr/link",
        "/usr/small",
    }


def test_small_files_in_different_packs_are_compared_by_what_is_in_them() -> None:
    before = holding(below=a_tree(pack=b"p", piece=b"f"))
    same_pack = holding(below=a_tree(pack=b"p", piece=b"f", time=7))
    assert compare(A, before, B, same_pack).changes == ()
    for time in (5, 7):  # whatever the times say
        after = holding(below=a_tree(pack=b"q", piece=b"f", time=time))
        assert compare(A, before, B, after, p=b"1", q=b"1").changes == ()
        found = compare(A, before, B, after, p=b"1", q=b"2").changes
        assert found == (Change(path="/usr/small", how="changed", before=9, after=9),)
        # A pack that can't be read: only the times are left.
        found = compare(A, before, B, after, p=b"1").changes
        assert [one.path for one in found] == ([] if time == 5 else ["/usr/small"])


def test_what_small_files_hold_is_read_from_their_packs(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    packs = [frame_of(first.ljust(BLOCK_BYTES, b"\0") + b"same") for first in (b"one", b"two")]
    store.put_chunks(packs)
    digests = [bytes.fromhex(pack.digest) for pack in packs]
    first = [Place(digest, 0, 3) for digest in digests]
    second = [Place(digest, 1, 4) for digest in digests]
    gone, beyond = Place(b"x" * 32, 0, 3), Place(digests[0], 1, 5)
    found = contents_of(store, {*first, *second, gone, beyond})
    assert found.keys() == {*first, *second}
    assert found[first[0]] != found[first[1]]
    assert found[second[0]] == found[second[1]]
    assert len({place.pack for place in contents_of(store, found, packs_max=1)}) == 1
