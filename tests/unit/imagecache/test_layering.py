"""Adding files to an image, as manifests and from a real tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.image import ManifestEntry
from glowplug_imagecache import files
from glowplug_imagecache.files import add_files, has_image, read_manifest, seal_image
from glowplug_imagecache.layering import merge_entries
from glowplug_imagecache.store import Store

from tests.support.builders_images import (
    a_dir,
    a_file,
    a_link,
    a_manifest,
    a_store,
    chunk_file,
)


def paths(entries: tuple[ManifestEntry, ...]) -> list[str]:
    return sorted(entry.path for entry in entries)


def test_makes_the_directories_in_between() -> None:
    merged = merge_entries([a_dir("a")], [a_file("a/b/c")])
    assert paths(merged) == ["a", "a/b", "a/b/c"]


def test_a_file_takes_the_place_of_a_file_or_link() -> None:
    new = a_file("x", b"new")
    assert merge_entries([a_file("x", b"old")], [new]) == (new,)
    assert merge_entries([a_link("x", "y")], [new]) == (new,)


def test_modules_compiled_from_a_replaced_source_go() -> None:
    below = [
        a_dir("p"),
        a_dir("p/__pycache__"),
        a_file("p/m.py", b"old"),
        a_file("p/__pycache__/m.cpython-311.pyc", b"old"),
        a_file("p/__pycache__/mm.cpython-311.pyc", b"other"),
    ]
    merged = merge_entries(below, [a_file("p/m.py", b"new")])
    assert paths(merged) == ["p", "p/__pycache__", "p/__pycache__/mm.cpython-311.pyc", "p/m.py"]


@pytest.mark.parametrize(
    ("below", "added"),
    [
        ([a_dir("x")], [a_file("x")]),
        ([a_file("x")], [a_dir("x")]),
        ([a_file("x")], [a_file("x/y")]),
        ([a_link("x", "/etc")], [a_file("x/passwd")]),
        ([a_link("x", "y")], [a_file("x/passwd")]),
    ],
)
def test_refuses_what_would_change_the_kind_of_a_path_or_go_through_a_link(
    below: list[ManifestEntry], added: list[ManifestEntry]
) -> None:
    with pytest.raises(InvalidRequestError):
        merge_entries(below, added)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def a_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def a_tar(store: Store, *members: tuple[tarfile.TarInfo, bytes]) -> Digest:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return store.add_blob(buffer.getvalue())


def test_a_tar_becomes_entries_with_their_content_in_the_store(store: Store) -> None:
    big = bytes(range(256)) * 8192
    blob = a_tar(
        store,
        (a_member("d", tarfile.DIRTYPE, mode=0o777), b""),
        (a_member("d/tool", mode=0o4755), b"#!"),
        (a_member("d/empty"), b""),
        (a_member("d/big"), big),
        (a_member("d/link", tarfile.SYMTYPE, "tool"), b""),
    )
    digest = add_files(store, a_manifest(a_file("kept")), blob, "d")
    entries = {entry.path: entry for entry in read_manifest(store, digest).entries}
    assert sorted(entries) == ["d", "d/big", "d/empty", "d/link", "d/tool", "kept"]
    assert (entries["d"].mode, entries["d/tool"].mode) == (0o755, 0o755)
    assert [chunk.size for chunk in entries["d/big"].chunks] == [1024 * 1024] * 2
    assert entries["d/link"].target == "tool"
    assert store.missing([chunk.digest for chunk in entries["d/big"].chunks]) == []


@pytest.mark.parametrize(
    "member",
    [
        a_member("../x"),
        a_member("/etc/x"),
        a_member("elsewhere"),
        a_member("dx"),
        a_member("d/link", tarfile.SYMTYPE, "/etc/passwd"),
        a_member("d/link", tarfile.SYMTYPE, "../../x"),
        a_member("d/hard", tarfile.LNKTYPE, "d/other"),
        a_member("d/null", tarfile.CHRTYPE),
        a_member("d/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_refuses_members_that_are_elsewhere_or_no_plain_content(
    store: Store, member: tarfile.TarInfo
) -> None:
    with pytest.raises(InvalidRequestError):
        add_files(store, a_manifest(), a_tar(store, (member, b"")), "d")


def test_refuses_what_is_too_much_or_no_tar(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="no usable tar"):
        add_files(store, a_manifest(), store.add_blob(b"no tar" * 200), "d")
    monkeypatch.setattr(files, "BYTES_MAX", 10)
    with pytest.raises(InvalidRequestError) as caught:
        add_files(store, a_manifest(), a_tar(store, (a_member("d"), b"x" * 11)), "d")
    assert caught.value.code == "request.too_large"


def test_a_blob_that_was_never_sent_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError):
        add_files(store, a_manifest(), Digest("0" * 64), "d")


def test_an_image_is_here_only_with_all_its_chunks(store: Store, tmp_path: Path) -> None:
    digest = add_files(store, a_manifest(), a_tar(store, (a_member("d"), b"content")), "d")
    assert has_image(store, digest)
    (entry,) = read_manifest(store, digest).entries
    chunk_file(tmp_path, entry.chunks[0].digest).unlink()
    assert not has_image(store, digest)


def test_an_image_is_sealed_with_the_environment_that_was_asked_for(store: Store) -> None:
    digest = add_files(store, a_manifest(), a_tar(store, (a_member("d"), b"content")), "d")
    sealed = read_manifest(store, seal_image(store, digest, a_manifest(env={"A": "1"})))
    assert (sealed.env, [entry.path for entry in sealed.entries]) == ({"A": "1"}, ["d"])
