"""What is said of one image, and of the difference between two."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.image import BaseImage, ImageRecord, ManifestEntry
from glowplug_contracts.trees import (
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
    Size,
    compare,
    detail,
    find_record,
    view,
)
from glowplug_imagecache.objects import digest_of

from tests.support.builders_images import a_dir, a_file, a_link, a_manifest

A, B = ImageDigest("a" * 64), ImageDigest("ab" * 32)


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
    found = compare(A, before, B, after)
    # The small file is in another pack, and has the same size and time: it counts as the same.
    assert found.changes == (
        Change(path="/usr/large", how="changed", before=LARGE, after=LARGE),
        Change(path="/usr/small2", how="added", before=0, after=3),
        Change(path="own", how="added", before=0, after=1),
    )
    assert found.settings == {"base": ("r/x@sha256:5", "r/x@sha256:6")}
    assert (found.bytes_shared, found.bytes_removed, found.bytes_added) == (0, 45_000, 45_001)
    same_pack = holding(below=a_tree(pack=b"p", piece=b"f", time=7))
    assert compare(A, before, B, same_pack).changes == ()
    touched = holding(below=a_tree(pack=b"q", piece=b"f", time=7))
    assert [one.path for one in compare(A, before, B, touched).changes] == ["/usr/small"]
    gone = compare(A, before, B, holding())
    assert {one.path for one in gone.changes} == {
        "/",
        "/usr",
        "/usr/large",
        "/usr/link",
        "/usr/small",
    }
