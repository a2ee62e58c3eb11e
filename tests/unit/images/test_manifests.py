"""What an image's manifest may not say."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.errors import ContractError, InvalidRequestError
from glowplug_contracts.manifests import check_link, check_path, decode_manifest, encode_manifest
from glowplug_contracts.messages.image import ChunkRef, ManifestEntry

from tests.support.builders_images import a_dir, a_file, a_link, a_manifest


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\0b", "x" * 256, "\udcff"],
)
def test_refuses_paths_that_leave_the_root_or_are_not_plain(path: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_path(path)


@pytest.mark.parametrize("path", ["a", "a b/ü\n", "...", "..a", "-rf", "a\\b", "x" * 255])
def test_takes_odd_but_plain_names(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "/etc/passwd"),
        ("a", ".."),
        ("a", "../x"),
        ("d/a", "../../x"),
        ("d/a", "./../.././x"),
        ("d/a", "b/../c"),
        ("a", ""),
        ("a", "x\0"),
    ],
)
def test_refuses_links_that_could_lead_out(path: str, target: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_link(path, target)


@pytest.mark.parametrize(("path", "target"), [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../b/c")])
def test_takes_links_that_stay_inside(path: str, target: str) -> None:
    assert check_link(path, target) == target


@pytest.mark.parametrize(
    "entries",
    [
        [a_file("a"), a_file("a", b"other")],
        [a_file("missing/a")],
        [a_link("d", "elsewhere"), a_file("d/a")],
        [a_file("d"), a_file("d/a")],
        [a_file("a", mode=0o4755)],
        [ManifestEntry(path="a", kind="device", mode=0o644)],
        [ManifestEntry(path="a", kind="file", mode=0o644, size=5)],
        [msgspec.structs.replace(a_file("a", b"12345"), size=6)],
        [msgspec.structs.replace(a_dir("a"), size=1)],
        [
            ManifestEntry(
                path="a",
                kind="file",
                mode=0o644,
                size=5,
                chunks=(ChunkRef(digest="0" * 64, offset=1, size=5),),
            )
        ],
        [
            ManifestEntry(
                path="a",
                kind="file",
                mode=0o644,
                size=5,
                chunks=(ChunkRef(digest="../../etc", offset=0, size=5),),
            )
        ],
    ],
)
def test_refuses_manifests_that_are_no_tree(entries: list[ManifestEntry]) -> None:
    with pytest.raises(ContractError):
        decode_manifest(encode_manifest(a_manifest(*entries)))


def test_refuses_bytes_that_are_no_manifest() -> None:
    with pytest.raises(ContractError):
        decode_manifest(b"\x93no")
