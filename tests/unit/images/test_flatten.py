"""A directory becomes one manifest whoever wrote it when, and nothing leads the reader out of it."""

from __future__ import annotations

import os
from pathlib import Path

import blake3
import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.tree_rules import decode_tree, path_of
from glowplug_contracts.trees import (
    Directory,
    Fifo,
    File,
    HardLink,
    PackedFile,
    Run,
    Socket,
    Symlink,
    encode_tree,
)
from glowplug_worker.images import descend, flatten
from glowplug_worker.images.flat_objects import Flattened, read_pack, read_piece

from tests.support.builders_images import write_tree
from tests.support.builders_trees import bind_socket

MIB = 1024 * 1024
NOISE = b"noise" * (3 * MIB)


def entries(flat: Flattened) -> dict[bytes, object]:
    return {path_of(flat.tree.entries, index): each for index, each in enumerate(flat.tree.entries)}


def test_names_everything_in_one_order(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root",
        {"b/c": b"c", "a": b"a", "b/a/x": "../../a", "large": NOISE[: 2 * MIB + 9], "e": b""},
    )
    os.link(root / "a", root / "z")
    os.link(root / "b" / "a" / "x", root / "b" / "y", follow_symlinks=False)
    os.mkfifo(root / "p")
    bind_socket(os.fsencode(root / "s"))
    (root / os.fsdecode(b"\xff")).mkdir(mode=0o700)
    flat = flatten.flatten(root)
    found = entries(flat)
    assert list(found) == [
        b"", b"a", b"b", b"e", b"large", b"p", b"s", b"z", b"\xff", b"b/a", b"b/c", b"b/y", b"b/a/x",
    ]  # fmt: skip
    assert [type(found[path]) for path in found] == [
        Directory, PackedFile, Directory, File, File, Fifo, Socket, HardLink, Directory,
        Directory, PackedFile, Symlink, HardLink,
    ]  # fmt: skip
    assert found[b"z"] == HardLink(0, b"z", 1)
    assert found[b"b/a/x"] == HardLink(9, b"x", 11)
    assert found[b"large"].runs == (Run(0, 0, 3),)
    assert found[b"b/y"].target == b"../../a"
    assert decode_tree(encode_tree(flat.tree)) == flat.tree


def test_equal_trees_have_equal_manifests(tmp_path: Path) -> None:
    """Written in another order, with other holes; their times are made equal, since those belong to them."""
    one = write_tree(tmp_path / "one", {"a": b"a", "b": b"b", "d/c": b"c", "z": bytes(3 * MIB)})
    two = write_tree(tmp_path / "two", {"d/c": b"c", "b": b"b", "a": b"a", "z": b""})
    os.truncate(two / "z", 3 * MIB)
    for root in (one, two):
        for path in (*root.rglob("*"), root):
            os.utime(path, ns=(5, 7))
    assert encode_tree(flatten.flatten(one).tree) == encode_tree(flatten.flatten(two).tree)
    assert entries(flatten.flatten(one))[b"z"].runs == ()


def test_objects_are_what_their_names_say(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root",
        {
            "a": b"a",
            "b": b"b" * 5000,
            "c": NOISE[: MIB + 1],
            "d": b"\0" * MIB + NOISE[:MIB],
            "e": b"a",
        },
    )
    flat = flatten.flatten(root)
    for objects, read in ((flat.tree.packs, read_pack), (flat.tree.pieces, read_piece)):
        for number, each in enumerate(objects):
            data = read(root, flat, number)
            assert (blake3.blake3(data).digest(), len(data)) == (each.digest, each.size)
    found = entries(flat)
    assert found[b"e"].pack == found[b"a"].pack
    assert found[b"e"].block == found[b"a"].block
    # The second megabyte of `d` is the first one of `c`.
    assert found[b"d"].runs == (Run(1, 0, 1),)
    assert len(flat.tree.pieces) == 2


def test_holes_lie_where_they_are(tmp_path: Path) -> None:
    """Both where the file system knows of them, and where somebody wrote zeros."""
    one, two = NOISE[:MIB], NOISE[1 : MIB + 1]
    root = write_tree(
        tmp_path / "root", {"written": one + bytes(MIB) + two + bytes(9), "kept": b""}
    )
    with (root / "kept").open("wb") as file:
        for place, data in ((0, one), (2 * MIB, two)):
            os.pwrite(file.fileno(), data, place)
        file.truncate(3 * MIB + 9)
    found = entries(flatten.flatten(root))
    for name in (b"written", b"kept"):
        assert (found[name].size, found[name].runs) == (3 * MIB + 9, (Run(0, 0, 1), Run(2, 1, 1)))


def test_packs_of_a_known_image_are_used_again(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {f"f{number:03}": b"%d" % number for number in range(200)})
    before = flatten.flatten(root)
    (root / "f100").write_bytes(b"changed")
    after = flatten.flatten(root, before.packs)
    assert len(set(after.tree.packs) - set(before.tree.packs)) == 1
    stale = next(
        number
        for number, pack in enumerate(after.packs)
        if any(each.digest not in after.pack_paths for each in pack.members)
    )
    with pytest.raises(InvalidRequestError, match="ask the store"):
        read_pack(root, after, stale)


def test_a_file_that_holds_what_a_pack_holds_shares_its_object(tmp_path: Path) -> None:
    both = write_tree(tmp_path / "both", {"a": b"a" * 4096, "b": b"b"})
    known = flatten.flatten(both).packs
    (both / "c").write_bytes(b"a" * 4096 + b"b")
    flat = flatten.flatten(both, known)
    found = entries(flat)
    assert len(flat.tree.packs) == 1
    assert [(found[name].pack, found[name].block) for name in (b"a", b"b", b"c")] == [
        (0, 0),
        (0, 1),
        (0, 0),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_refuses_a_device(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    with pytest.raises(InvalidRequestError, match="'null' is a device"):
        flatten.flatten(tmp_path)


def test_notices_what_changed_between_naming_and_reading(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"small": b"small", "large": NOISE[:MIB]})
    flat = flatten.flatten(root)
    (root / "small").write_bytes(b"SMALL")
    (root / "large").write_bytes(NOISE[1 : MIB + 1])
    for read in (read_pack, read_piece):
        with pytest.raises(InvalidRequestError, match="changed while it was being stored"):
            read(root, flat, 0)
    (root / "small").write_bytes(b"s")
    with pytest.raises(InvalidRequestError, match="changed while it was being read"):
        read_pack(root, flat, 0)


def test_follows_no_link_that_takes_a_places_place(tmp_path: Path) -> None:
    """A build's process swaps a directory, or a file, for a link to what lies outside."""
    secret = write_tree(tmp_path / "secret", {"file": b"content"})
    root = write_tree(tmp_path / "root", {"d/file": b"content", "file": b"content"})
    flat = flatten.flatten(root)
    assert flat.pack_paths[blake3.blake3(b"content").digest()] == (b"file",)
    (root / "file").unlink()
    (root / "file").symlink_to(secret / "file")
    with pytest.raises(OSError, match="symbolic links"):
        read_pack(root, flat, 0)
    (root / "d" / "file").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to(secret)
    with (
        descend.open_root(root) as folder,
        pytest.raises(OSError, match="Not a directory"),
        descend.open_file(folder, (b"d", b"file")),
    ):
        pass


def test_reads_attributes_where_there_are_some(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "root", {"file": b"x", "link": "file"}) / "file"
    path.chmod(0o4751)
    os.utime(path, ns=(0, -1))
    try:
        os.setxattr(path, "user.b", b"2")
        os.setxattr(path, "user.a", b"\0\xff")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    found = entries(flatten.flatten(tmp_path / "root"))
    file = found[b"file"]
    assert (file.mode, file.uid, file.gid) == (0o4751, os.geteuid(), os.getegid())
    assert (file.mtime_s, file.mtime_ns) == (-1, 999_999_999)
    assert [(each.name, each.value) for each in file.xattrs] == [
        (b"user.a", b"\0\xff"),
        (b"user.b", b"2"),
    ]
    assert found[b"link"].xattrs == ()


def test_bounds_the_number_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "root", {"a": b"", "b": b""})
    monkeypatch.setattr(flatten, "ENTRIES_MAX", 2)
    with pytest.raises(InvalidRequestError, match="one too many"):
        flatten.flatten(root)
