"""An overlay's upper directory, as the kernel keeps it, read as what its container saw."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from glowplug_contracts.trees import Directory, FlatTree, PackedFile, StoredObject, Xattr
from glowplug_worker.images.upper import _Upper, read_upper
from glowplug_worker.runtime.rooted.changes import About, begin, read_about

FIRST = 0x6800_0000
ROOT = Directory(0, b"", 0o755, 0, 0, 0, 0, ())
BASE = FlatTree(
    entries=(ROOT, PackedFile(0, b"theirs", 0o644, 7, 8, 0, 0, (), 1, 0, 0)),
    packs=(StoredObject(b"x" * 32, 1),),
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def names(tree: FlatTree) -> dict[bytes, tuple[int, int]]:
    return {each.name: (each.uid, each.gid) for each in tree.entries if hasattr(each, "uid")}


@needs_root
def test_marks_of_the_kernel_become_what_is_gone_and_what_hides(tmp_path: Path) -> None:
    (tmp_path / "hides").mkdir()
    os.setxattr(tmp_path / "hides", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "hides", "user.kept", b"1")
    (tmp_path / "hides/new").write_text("x")
    os.mknod(tmp_path / "away", 0o20000, os.makedev(0, 0))
    os.chown(tmp_path / "hides/new", FIRST + 33, FIRST + 34)
    read = read_upper(tmp_path, BASE, FIRST)
    assert read.changes.gone == ((b"away",),)
    assert read.changes.bare == ((b"hides",),)
    assert names(read.changes.tree) == {b"": (0, 0), b"hides": (0, 0), b"new": (33, 34)}
    assert read.changes.tree.entries[1].xattrs == (Xattr(b"user.kept", b"1"),)


def test_places_of_mounts_are_no_changes(tmp_path: Path) -> None:
    for path in ("proc", "glowplug/host", "layer", "etc", "own/place"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").touch()
    (tmp_path / "etc/kept").touch()
    read = read_upper(tmp_path, BASE, None, ("/etc/resolv.conf", "/own/place"))
    assert set(names(read.changes.tree)) == {b"", b"etc", b"own", b"kept"}


def test_where_owners_were_not_kept_they_are_the_bases_or_roots(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("changed")
    (tmp_path / "new").write_text("x")
    assert names(read_upper(tmp_path, BASE, None).changes.tree) == {
        b"": (0, 0),
        b"theirs": (7, 8),
        b"new": (0, 0),
    }


def test_capabilities_lose_the_namespace_that_gave_them() -> None:
    lens = _Upper({}, FIRST, ())
    given = struct.pack("<6I", 0x03000001, 0x2000, 0, 0, 0, FIRST)
    found = lens.xattrs((b"ping",), (Xattr(b"security.capability", given),))
    assert found[0].value == struct.pack("<5I", 0x02000001, 0x2000, 0, 0, 0)
    other = struct.pack("<6I", 0x03000001, 0x2000, 0, 0, 0, 5000 + FIRST)
    kept = Xattr(b"security.capability", other)
    assert lens.xattrs((b"ping",), (kept,)) == (kept,)


def test_a_root_begins_with_the_attributes_of_the_one_below(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir(mode=0o700)
    os.utime(lower, ns=(1, 2_000_000_003))
    about = About(None, ("/a",))
    begin(tmp_path / "changes", lower, about)
    facts = (tmp_path / "changes/upper").stat()
    assert (facts.st_mode & 0o7777, facts.st_mtime_ns) == (0o700, 2_000_000_003)
    assert read_about(tmp_path / "changes") == about
