"""The records of EROFS as they stand on the disk: sizes, flags, and values into bytes.

Pure. After the kernel's documentation (Documentation/filesystems/erofs.rst) and the project's description
of its core format. All numbers are little-endian. Only what our images use is here: no compression, no
fragments, no long prefixes of attributes, no filter of their names.
"""

from __future__ import annotations

import struct

from glowplug_worker.images.erofs.checksum import crc32c

BLOCK_BITS = 12
BLOCK = 1 << BLOCK_BITS
# Inodes start at multiples of this, and an inode's number is its offset in it.
SLOT = 32
# The first bytes are left to boot sectors.
SUPER_OFFSET = 1024
SUPER_BYTES = 128
DEVICE_SLOT = 128
# An address that says "hole": all ones, in as many bits as the map has.
NO_BLOCK = 0xFFFF_FFFF
NO_BLOCK_HIGH = 0xFFFF
U16_MAX = 0xFFFF
U32_MAX = 0xFFFF_FFFF

MAGIC = 0xE0F5_E1E2
COMPAT_CHECKSUM = 0x1
COMPAT_MTIME = 0x2
INCOMPAT_CHUNKED_FILE = 0x4
INCOMPAT_DEVICE_TABLE = 0x8
INCOMPAT_48BIT = 0x80

# How an inode's content is kept; one bit up in its format, above the version.
FLAT_PLAIN = 0
FLAT_INLINE = 2
CHUNK_BASED = 4
COMPACT = 0
EXTENDED = 1
COMPACT_BYTES = 32
EXTENDED_BYTES = 64

CHUNK_INDEXES = 0x20
CHUNK_48BIT = 0x40
# A chunk is 2**bits blocks, and the format has five bits for it.
CHUNK_BITS_MAX = 31
INDEX_BYTES = 8

DIRENT_BYTES = 12
TYPE_FILE, TYPE_DIRECTORY, TYPE_FIFO, TYPE_SOCKET, TYPE_SYMLINK = 1, 2, 5, 6, 7
S_IFIFO, S_IFDIR, S_IFREG, S_IFLNK, S_IFSOCK = 0o010000, 0o040000, 0o100000, 0o120000, 0o140000

COMPACT_INODE = struct.Struct("<HHHHIIIIHHI")
EXTENDED_INODE = struct.Struct("<HHHHQIIIIqII16x")
CHUNK_INDEX = struct.Struct("<HHI")
DIRENT = struct.Struct("<QHBx")
_SUPER = struct.Struct("<IIIBBHQqIIII16s16sIHHHBBIQBB2xIQ8x")
_DEVICE = struct.Struct("<64xIIHH52x")
_VOLUME = b"glowplug"

assert _SUPER.size == SUPER_BYTES  # noqa: S101 - a slip in the lines above
assert _DEVICE.size == DEVICE_SLOT  # noqa: S101
assert (COMPACT_INODE.size, EXTENDED_INODE.size) == (COMPACT_BYTES, EXTENDED_BYTES)  # noqa: S101


def blocks_of(size: int) -> int:
    """Return how many blocks hold `size` bytes."""
    return -(-size >> BLOCK_BITS)


def super_block(  # noqa: PLR0913 - the record has these fields
    *,
    inodes: int,
    epoch_s: int,
    epoch_ns: int,
    blocks: int,
    root: int,
    xattr_block: int,
    identity: bytes,
    devices: int,
    large: bool,
) -> bytes:
    """Return the super block, still without its checksum (`seal_block` adds it).

    `large`: some device is past 2**32 blocks; then the root's number stands in 64 bits, and the number of
    blocks in 48. `root` is an inode's number, below 2**16 otherwise.
    """
    incompat = INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE | (INCOMPAT_48BIT if large else 0)
    return _SUPER.pack(
        MAGIC,
        0,
        COMPAT_CHECKSUM | COMPAT_MTIME,
        BLOCK_BITS,
        0,
        blocks >> 32 if large else root,
        inodes,
        epoch_s,
        epoch_ns,
        blocks & U32_MAX,
        0,
        xattr_block,
        identity,
        _VOLUME,
        incompat,
        0,
        devices,
        (SUPER_OFFSET + SUPER_BYTES) // DEVICE_SLOT,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        root if large else 0,
    )


def device_slot(blocks: int, first_block: int) -> bytes:
    """Return a device's record: its size, and where it would start if all devices were one.

    It has no tag: without a tag and without `device=` there is nothing a kernel could open.
    """
    return _DEVICE.pack(blocks & U32_MAX, first_block & U32_MAX, blocks >> 32, first_block >> 32)


def seal_block(image: bytearray) -> None:
    """Write the checksum of the first block into its super block."""
    checksum = crc32c(memoryview(image)[SUPER_OFFSET:BLOCK])
    struct.pack_into("<I", image, SUPER_OFFSET + 4, checksum)
