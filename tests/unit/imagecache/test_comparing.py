"""What is said of one image, and of the difference between two."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.image import ImageRecord
from glowplug_imagecache.comparing import (
    LISTED_MAX,
    Change,
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
    manifest = a_manifest(
        a_file("a", b"1234"), a_file("b", b"1234"), a_file("c", b"56"), a_dir("d")
    )
    other = a_manifest(a_file("x", b"56"))
    seen = view(a_record(), used_at=1.0, used_by=("f v1", "f v1"), hurt=False)
    found = detail(seen, manifest, {digest_of(b"1234"): 40, digest_of(b"56"): 7}, [other])
    assert (found.distinct_bytes, found.stored_bytes, found.own_bytes, found.missing) == (
        6,
        47,
        40,
        0,
    )
    assert found.largest[0] == Size(path="a", bytes=4)
    assert found.image.used_by == ("f v1",)
    assert detail(seen, manifest, {Digest(digest_of(b"56")): 7}, []).missing == 1


def test_a_difference_names_paths_settings_and_bytes() -> None:
    before = a_manifest(
        a_file("gone", b"123"), a_file("kept", b"4"), a_file("edited", b"56"), env={"A": "1"}
    )
    after = a_manifest(
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
    before = a_manifest(a_file("a"))
    assert compare(A, before, A, before).changes == ()
    after = msgspec.structs.replace(before, entries=(a_file("a", mode=0o755),))
    assert [one.how for one in compare(A, before, B, after).changes] == ["changed"]


def test_long_lists_are_cut_and_counted_whole() -> None:
    many = a_manifest(*(a_dir(f"d{n:04}") for n in range(LISTED_MAX + 5)))
    found = compare(A, a_manifest(), B, many)
    assert (len(found.changes), found.added) == (LISTED_MAX, LISTED_MAX + 5)
