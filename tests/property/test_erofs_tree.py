"""Whatever tree: its manifest keeps the rules, and its EROFS image says what the tree says, byte by byte."""

from __future__ import annotations

import stat

from glowplug_contracts.manifests import PATH_BYTES_MAX
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import (
    Directory,
    Fifo,
    File,
    HardLink,
    PackedFile,
    Socket,
    Symlink,
    encode_tree,
)
from glowplug_worker.images.erofs import build_image, place_objects
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.builders_trees import FOLDERS, Folder, Laid, flat_tree
from tests.support.erofs import IDENTITY
from tests.support.erofs_reader import Reader, Seen

KINDS = {
    Directory: stat.S_IFDIR,
    PackedFile: stat.S_IFREG,
    File: stat.S_IFREG,
    Symlink: stat.S_IFLNK,
    Fifo: stat.S_IFIFO,
    Socket: stat.S_IFSOCK,
}
# The last one is past what 32 bits of blocks can name, and needs the 48-bit form.
FIRST_BLOCKS = st.sampled_from([0, 7, 2**32 - 200, 2**40])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FOLDERS, FIRST_BLOCKS)
def test_an_image_says_what_its_tree_says(drawing: Folder, first_block: int) -> None:
    laid = flat_tree(drawing, first_block)
    assume(max(map(len, laid.paths)) < PATH_BYTES_MAX)
    tree = decode_tree(encode_tree(laid.tree))
    assert tree == laid.tree
    devices = [place_objects(objects, first_block) for objects in (tree.packs, tree.pieces)]
    image = build_image(tree, IDENTITY, *devices)
    reader = Reader(image.metadata)
    seen = dict(reader.walk())
    assert sorted(seen) == sorted(laid.paths)
    for number, path in enumerate(laid.paths):
        assert _facts(seen[path]) == _expected(laid, number), path
    assert reader.inodes == len({each.number for each in seen.values()})
    assert reader.identity == IDENTITY
    assert [size for size, _ in reader.devices] == [device.blocks for device in devices]
    assert reader.large == (reader.blocks + sum(size for size, _ in reader.devices) >= 2**32 - 1)
    assert image.metadata == build_image(tree, IDENTITY, *devices).metadata


def _facts(seen: Seen) -> tuple[object, ...]:
    return (
        seen.mode,
        seen.uid,
        seen.gid,
        seen.mtime_s,
        seen.mtime_ns,
        # Of directories the reader has counted them.
        0 if stat.S_ISDIR(seen.mode) else seen.links,
        0 if stat.S_ISDIR(seen.mode) else seen.size,
        seen.xattrs,
        seen.target,
        seen.stretches,
    )


def _expected(laid: Laid, number: int) -> tuple[object, ...]:
    entry = laid.tree.entries[number]
    if isinstance(entry, HardLink):
        return _expected(laid, entry.target)
    same = sum(isinstance(each, HardLink) and each.target == number for each in laid.tree.entries)
    target = entry.target if isinstance(entry, Symlink) else b""
    return (
        KINDS[type(entry)] | entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_s,
        entry.mtime_ns,
        0 if isinstance(entry, Directory) else 1 + same,
        entry.size if isinstance(entry, PackedFile | File) else len(target),
        tuple((each.name, each.value) for each in entry.xattrs),
        target,
        laid.contents.get(laid.paths[number], ()),
    )
