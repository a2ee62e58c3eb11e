"""A reader of EROFS metadata images that shares no line with the writer, and is stricter than kernels.

Written from the description of the format. It follows a tree from the root, checks on the way what a kernel
takes for granted (order of names, dots, padding, the checksum), and returns what each path is, with its
content as stretches of devices. So images can be judged without root, by the thousand.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator

import msgspec

BLOCK = 4096
SUPER = 1024
PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
TYPES = {1: stat.S_IFREG, 2: stat.S_IFDIR, 5: stat.S_IFIFO, 6: stat.S_IFSOCK, 7: stat.S_IFLNK}


class Stretch(msgspec.Struct, frozen=True):
    """Blocks of a file that lie side by side on a device."""

    at: int
    blocks: int
    device: int
    start: int


class Seen(msgspec.Struct, frozen=True):
    """What the image says about a path."""

    number: int
    mode: int
    uid: int
    gid: int
    mtime_s: int
    mtime_ns: int
    links: int
    size: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    target: bytes
    stretches: tuple[Stretch, ...]


class Reader:
    """Reads one metadata image."""

    def __init__(self, image: bytes) -> None:
        assert len(image) % BLOCK == 0
        self.image = image
        block = bytearray(image[SUPER:BLOCK])
        (checksum,) = struct.unpack_from("<I", block, 4)
        block[4:8] = bytes(4)
        assert crc32c_by_bits(block) == checksum
        magic, _, self.compat, bits, slots, low, self.inodes, self.epoch, self.nsec = (
            struct.unpack_from("<IIIBBHQqI", block, 0)
        )
        blocks, meta, self.xattr_block = struct.unpack_from("<III", block, 0x24)
        self.identity = bytes(block[0x30:0x40])
        self.incompat, _, self.device_count, slot = struct.unpack_from("<IHHH", block, 0x50)
        (root,) = struct.unpack_from("<Q", block, 0x70)
        assert (magic, bits, slots, meta) == (0xE0F5E1E2, 12, 0, 0)
        assert self.compat == 0x3
        self.large = bool(self.incompat & 0x80)
        assert self.incompat & ~0x80 == 0xC
        self.root = root if self.large else low
        self.blocks = blocks | (low << 32 if self.large else 0)
        assert self.blocks * BLOCK == len(image)
        self.devices = []
        for number in range(self.device_count):
            record = image[(slot + number) * 128 : (slot + number + 1) * 128]
            size, first, size_high, first_high = struct.unpack_from("<IIHH", record, 64)
            assert self.large or size_high == first_high == 0
            assert record[:64] == bytes(64)
            self.devices.append((size | size_high << 32, first | first_high << 32))

    def walk(self) -> Iterator[tuple[bytes, Seen]]:
        """Yield every path with what it is; the root is b""."""
        todo = [(b"", self.root, self.root)]
        while todo:
            path, number, parent = todo.pop(0)
            seen, content = self.inode(number)
            yield path, seen
            if not stat.S_ISDIR(seen.mode):
                continue
            names = []
            folders = 0
            for name, child, kind in self.entries(content):
                names.append(name)
                if name in {b".", b".."}:
                    assert kind == stat.S_IFDIR
                    assert child == (number if name == b"." else parent)
                    continue
                found, _ = self.inode(child)
                assert stat.S_IFMT(found.mode) == kind
                folders += kind == stat.S_IFDIR
                inner = path + b"/" + name if path else name
                if kind == stat.S_IFDIR:
                    todo.append((inner, child, number))
                else:
                    yield inner, found
            assert names == sorted(set(names))
            assert {b".", b".."} <= set(names)
            assert seen.links == 2 + folders

    def inode(self, number: int) -> tuple[Seen, bytes]:
        at = number * 32
        form, count, mode, short, size = struct.unpack_from("<HHHHI", self.image, at)
        layout, extended = form >> 1, form & 1
        if extended:
            (size,) = struct.unpack_from("<Q", self.image, at + 8)
            value, _, uid, gid, mtime, nsec, links = struct.unpack_from(
                "<IIIIqII", self.image, at + 16
            )
            assert short == 0
            end = at + 64
        else:
            zero, value, _, uid, gid, zero_too = struct.unpack_from("<IIIHHI", self.image, at + 12)
            assert zero == zero_too == 0
            mtime, nsec, links, end = self.epoch, self.nsec, short, at + 32
        xattrs, end = self.xattrs(end, count)
        content, stretches = b"", ()
        if layout == 4:
            assert stat.S_ISREG(mode)
            stretches = self.stretches(size, value, end + -end % 8)
        elif stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            assert (layout, size) == (0, 0)
        else:
            content = self.flat(layout, size, value, end)
        seen = Seen(
            number, mode, uid, gid, mtime, nsec, links, size, xattrs,
            content if stat.S_ISLNK(mode) else b"", stretches,
        )  # fmt: skip
        return seen, content

    def flat(self, layout: int, size: int, first: int, end: int) -> bytes:
        if layout == 0:
            return self.image[first * BLOCK :][:size]
        assert layout == 2
        apart = (size - 1) // BLOCK * BLOCK
        tail = size - apart
        # Older kernels want a link, inode and all, in one block.
        assert end // BLOCK == (end + tail - 1) // BLOCK
        return self.image[first * BLOCK :][:apart] + self.image[end : end + tail]

    def stretches(self, size: int, form: int, at: int) -> tuple[Stretch, ...]:
        bits, wide = form & 0x1F, form & 0x40
        assert form & ~0x5F == 0x20
        assert self.large or not wide
        blocks = -(-size // BLOCK)
        found: list[Stretch] = []
        for chunk in range(-(-blocks >> bits)):
            high, device, low = struct.unpack_from("<HHI", self.image, at + 8 * chunk)
            assert wide or high == 0
            if low == 0xFFFFFFFF and high == (0xFFFF if wide else 0):
                continue
            start, first = high << 32 | low, chunk << bits
            count = min(1 << bits, blocks - first)
            last = found[-1] if found else Stretch(0, 0, 0, 0)
            if (last.at + last.blocks, last.device, last.start + last.blocks) == (
                first, device, start,
            ):  # fmt: skip
                found[-1] = Stretch(last.at, last.blocks + count, device, last.start)
            else:
                found.append(Stretch(first, count, device, start))
            assert 1 <= device <= self.device_count
            assert start + count <= self.devices[device - 1][0]
        return tuple(found)

    def xattrs(self, at: int, count: int) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
        if not count:
            return (), at
        end = at + 12 + 4 * (count - 1)
        shared = self.image[at + 4]
        assert self.image[at + 5 : at + 12] == bytes(7)
        found = [
            self.xattr(self.xattr_block * BLOCK + 4 * number)[0]
            for number in struct.unpack_from(f"<{shared}I", self.image, at + 12)
        ]
        at += 12 + 4 * shared
        while at < end:
            each, at = self.xattr(at)
            found.append(each)
        assert at == end
        return tuple(sorted(found)), end

    def xattr(self, at: int) -> tuple[tuple[bytes, bytes], int]:
        length, prefix, size = struct.unpack_from("<BBH", self.image, at)
        name = self.image[at + 4 : at + 4 + length]
        value = self.image[at + 4 + length : at + 4 + length + size]
        end = at + 4 + length + size
        assert self.image[end : end + -end % 4] == bytes(-end % 4)
        return (PREFIXES[prefix] + name, value), end + -end % 4

    def entries(self, content: bytes) -> Iterator[tuple[bytes, int, int]]:
        for first in range(0, len(content), BLOCK):
            block = content[first : first + BLOCK]
            (names_at,) = struct.unpack_from("<H", block, 8)
            assert names_at % 12 == 0
            assert names_at > 0
            records = list(struct.iter_unpack("<QHBB", block[:names_at]))
            ends = [record[1] for record in records[1:]] + [len(block)]
            for (number, start, kind, zero), end in zip(records, ends, strict=True):
                assert zero == 0
                name = block[start:end]
                if end == len(block):
                    name = name.rstrip(b"\0")
                assert 0 < len(name) <= 255
                assert not {0, 47} & set(name)
                yield name, number, TYPES[kind]


def crc32c_by_bits(data: bytes | bytearray) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value
