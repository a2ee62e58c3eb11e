"""EROFS images down to the byte: the same tree gives the same image, in no more blocks than it takes."""

from __future__ import annotations

import blake3
import pytest
from glowplug_contracts.trees import (
    PIECE_BYTES,
    Directory,
    Fifo,
    File,
    HardLink,
    PackedFile,
    Run,
    Socket,
    StoredObject,
    Symlink,
    Xattr,
)
from glowplug_worker.images.erofs import build_image
from glowplug_worker.images.erofs.checksum import crc32c
from glowplug_worker.images.erofs.chunkmaps import ChunkMap, map_of_packed, map_of_runs
from glowplug_worker.images.erofs.devices import Device, place_objects
from glowplug_worker.images.erofs.directories import measure
from glowplug_worker.images.erofs.inodes import place_inline
from glowplug_worker.images.erofs.xattrs import XattrPlan, entry_bytes

from tests.support.builders_trees import a_tree
from tests.support.erofs import IDENTITY
from tests.support.erofs_reader import Reader

HOLE = bytes(4) + b"\xff" * 4
HOLE_48 = b"\xff\xff\0\0" + b"\xff" * 4
ACL = Xattr(b"system.posix_acl_access", b"acl")
TREE = a_tree(
    Directory(0, b"bin", 0o755, 0, 0, 1_700_000_000, 5, ()),
    File(0, b"empty", 0o644, 0, 0, 0, 0, (), 0, ()),
    File(0, b"hole", 0o644, 0, 0, 0, 0, (), 2**40, ()),
    File(0, b"large", 0o644, 70000, 0, 0, 0, (), 2 * PIECE_BYTES + 1, (Run(0, 0, 3),)),
    Symlink(0, b"link", 0o777, 0, 0, 0, 0, (), b"bin/tool"),
    Fifo(0, b"pipe", 0o600, 0, 0, 0, 0, (Xattr(b"user.a", b"1"),)),
    Socket(0, b"socket", 0o600, 0, 0, 0, 0, (Xattr(b"user.a", b"1"), Xattr(b"user.b", b"2"))),
    HardLink(0, b"twice", 4),
    PackedFile(1, b"tool", 0o4755, 0, 0, 0, 0, (ACL,), 5000, 0, 1),
    packs=[StoredObject(b"p" * 32, 9096)],
    pieces=[StoredObject(bytes([n]) * 32, PIECE_BYTES if n < 2 else 1) for n in range(3)],
)


def test_a_trees_image_has_the_digest_it_had() -> None:
    """Nodes compare images by their bytes: a change here is a change of format, for all of them."""
    image = build_image(TREE, IDENTITY)
    assert (
        blake3.blake3(image.metadata).hexdigest()
        == "7cd51cd6344dc3e64b31fe6a2296c1424e74e61c0f31801711a6c02c8f4521b5"
    )
    assert image == build_image(TREE, IDENTITY)
    assert (image.packs.size, image.pieces.size) == (3 * 4096, 2 * PIECE_BYTES + 4096)
    assert image.pieces.offset_of(2) == 2 * PIECE_BYTES


def test_a_small_image_is_one_block_and_one_of_shared_attributes() -> None:
    reader = Reader(build_image(TREE, IDENTITY).metadata)
    seen = dict(reader.walk())
    assert (reader.blocks, reader.xattr_block, reader.inodes) == (2, 1, 9)
    assert (reader.epoch, reader.nsec) == (0, 0)
    assert seen[b"large"] == seen[b"twice"]
    assert seen[b"large"].links == 2


def test_the_checksum_is_castagnolis() -> None:
    """The check value of the catalogue is of an inverted end."""
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


@pytest.mark.parametrize(
    ("size", "start", "expected"),
    [
        (1, 7, ChunkMap(0x20, b"\0\0\1\0\7\0\0\0")),
        (4097, 7, ChunkMap(0x21, b"\0\0\1\0\7\0\0\0")),
        (32 * 1024, 2**32 - 2, ChunkMap(0x23, b"\0\0\1\0\xfe\xff\xff\xff")),
        (1, 2**32 - 1, ChunkMap(0x60, b"\0\0\1\0\xff\xff\xff\xff")),
        (1, 2**32 + 1, ChunkMap(0x60, b"\1\0\1\0\1\0\0\0")),
    ],
)
def test_a_packed_file_is_one_chunk(size: int, start: int, expected: ChunkMap) -> None:
    assert map_of_packed(size, start) == expected


def index(start: int, high: int = 0) -> bytes:
    return high.to_bytes(2, "little") + b"\2\0" + start.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("size", "runs", "expected"),
    [
        # All of it in one stretch, however long: one chunk.
        (3 * PIECE_BYTES, [Run(0, 0, 3)], ChunkMap(0x20 | 10, index(0))),
        (10_000 * 1024**3, [], ChunkMap(0x20 | 31, HOLE * 2)),
        # A hole of as many pieces as there is data: chunks of that many.
        (4 * PIECE_BYTES, [Run(0, 0, 2)], ChunkMap(0x20 | 9, index(0) + HOLE)),
        (4 * PIECE_BYTES, [Run(2, 1, 2)], ChunkMap(0x20 | 9, HOLE + index(256))),
        # Edges anywhere: chunks of a piece.
        (3 * PIECE_BYTES, [Run(1, 2, 1)], ChunkMap(0x20 | 8, HOLE + index(512) + HOLE)),
        (
            2 * PIECE_BYTES + 1,
            [Run(0, 1, 1), Run(1, 0, 1)],
            ChunkMap(0x20 | 8, index(256) + index(0) + HOLE),
        ),
    ],
)
def test_a_cut_file_has_as_few_chunks_as_it_can(
    size: int, runs: list[Run], expected: ChunkMap
) -> None:
    assert map_of_runs(size, runs, Device(tuple(range(0, 256 * 10, 256)), 2560)) == expected


def test_a_file_far_out_on_its_device_has_wide_addresses_and_holes() -> None:
    far = Device((2**32 + 3,), 2**32 + 259)
    found = map_of_runs(2 * PIECE_BYTES, [Run(1, 0, 1)], far)
    assert found == ChunkMap(0x60 | 8, HOLE_48 + index(3, high=1))


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 1, [0]),
        (4096, 1, [0]),
        (2 * 4096, 1, [1]),
        (2 * 4096 - 1, 2, [0, 1]),
        (0, 10 * 4096, [0, 1, 2]),
        (5 * 4096, 4096, [2]),
        (4096, 0, []),
    ],
)
def test_a_read_of_a_device_touches_these_objects(
    offset: int, size: int, expected: list[int]
) -> None:
    device = place_objects([StoredObject(b"x" * 32, size) for size in (8000, 4096, 9000)])
    assert device == Device((0, 2, 3), 6)
    assert list(device.numbers_in(offset, size)) == expected


def test_directories_fill_blocks_to_the_last_byte() -> None:
    """Twelve bytes and the name for each; the dots take 27 of the first block's 4096."""
    names = sorted([b"n" * (1000 - 12 - 2) + b"%02d" % number for number in range(4)])
    assert measure(names).counts == (6,)
    assert measure([*names, b"z" * (4096 - 27 - 4000 - 12)]).tail == 4096
    longer = measure([*names, b"z" * (4096 - 27 - 4000 - 11)])
    assert (longer.counts, longer.size) == ((6, 1), 4096 + 70)
    assert measure([]).size == 27


def test_what_follows_an_inode_stays_in_its_block() -> None:
    assert place_inline(0, 64, 100) == (0, 2)
    assert place_inline(4000, 32, 64) == (4000, 2)
    assert place_inline(4000, 32, 65) == (4096, 2)
    assert place_inline(4000, 32, 2049) == (4000, 0)
    assert place_inline(4000, 3000, 2000) == (4000, 0)


def test_attributes_are_shared_from_the_second_inode_on() -> None:
    one, two = Xattr(b"user.one", b"1"), Xattr(b"trusted.two", b"22")
    plan = XattrPlan([(one, two), (two,)])
    assert plan.area == entry_bytes(two) == b"\3\4\2\0two22" + bytes(3)
    assert plan.body((two,)) == bytes(4) + b"\1" + bytes(7) + bytes(4)
    assert plan.body((one, two)) == plan.body((two,)) + b"\3\1\1\0one1"
    assert plan.body(()) == b""
    assert entry_bytes(ACL) == b"\0\2\3\0acl\0"
