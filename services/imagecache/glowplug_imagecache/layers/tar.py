"""A tar, member by member, from a function that reads: what the archive says, not yet what we think of it. Pure.

Our own, since the standard library's takes a damaged header for the end of the archive, and reads an
extended header of any size into memory. It reads what the field writes: ustar, GNU and PAX, long names,
base-256 numbers and sparse files. Global headers are left out, as by Docker, containerd and umoci.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from glowplug_imagecache.layers import sparse
from glowplug_imagecache.layers.bounds import Bounds, corrupt, refused, too_large
from glowplug_imagecache.layers.headers import BLOCK, Block, parse_block
from glowplug_imagecache.layers.pax import Extended, parse_pax

Kind = Literal["file", "dir", "link", "hardlink", "char", "block", "fifo"]

# Reads up to so many bytes; fewer only at the end.
Read = Callable[[int], bytes]

PIECE_BYTES: Final = 1024 * 1024
MODE_MASK: Final = 0o7777
OWNER_MAX: Final = 2**32 - 2  # the last one means "leave it" to chown
NS: Final = 10**9
_ZEROS: Final = bytes(BLOCK)
_KINDS: Final[dict[bytes, Kind]] = {
    b"0": "file",
    b"\x00": "file",
    b"7": "file",  # "contiguous", long ago
    b"S": "file",  # sparse
    b"1": "hardlink",
    b"2": "link",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_VOLUME_LABEL = b"V"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an archive.

    Attributes:
        name, linkname: bytes, as everywhere in a file system.
        size: of a file, with its holes.
        regions: where the stored bytes belong; None: it has no holes.
    """

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    linkname: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = {}
    regions: tuple[sparse.Region, ...] | None = None


class TarReader:
    """Iterate over it for the members; `pieces` gives the bytes of the one that was last."""

    def __init__(self, read: Read, bounds: Bounds) -> None:
        self._read = read
        self._bounds = bounds
        self._left = 0  # stored bytes of this member that nobody took
        self._padding = 0
        self._regions: tuple[sparse.Region, ...] = ()

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the file, bytes) of this member; holes are left out. Once for each member."""
        regions, self._regions = self._regions, ()
        for offset, length in regions:
            done = 0
            while done < length:
                piece = self._exactly(min(PIECE_BYTES, length - done))
                self._left -= len(piece)
                yield offset + done, piece
                done += len(piece)

    def _next(self) -> Member | None:
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        extended, long_name, long_link = Extended(), None, None
        headers_bytes = 0
        while (block := self._block()) is not None:
            if block.kind not in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _VOLUME_LABEL):
                return self._member(block, extended, long_name, long_link)
            headers_bytes += block.size + BLOCK
            if block.size < 0 or headers_bytes > self._bounds.header_bytes_max:
                raise too_large(
                    f"has headers of over {self._bounds.header_bytes_max} bytes before one file"
                )
            data = self._exactly(block.size)
            self._skip(-block.size % BLOCK)
            if block.kind == _PAX:
                extended = parse_pax(data, self._bounds)
            elif block.kind == _LONG_NAME:
                long_name = data.partition(b"\x00")[0]
            elif block.kind == _LONG_LINK:
                long_link = data.partition(b"\x00")[0]
        if headers_bytes:
            raise corrupt("ends after a header that belongs to nothing")
        return None

    def _block(self) -> Block | None:
        """Return the next block, or None at the end: two blocks of zeros, or nothing more at all."""
        raw = self._read(BLOCK)
        if not raw:
            return None
        if len(raw) != BLOCK:
            raise corrupt("is cut off in the middle of a header")
        if raw != _ZEROS:
            return parse_block(raw)
        second = self._read(BLOCK)
        if second.strip(b"\x00"):
            raise corrupt("goes on after its end; was it put together from several archives?")
        return None

    def _member(
        self, block: Block, extended: Extended, long_name: bytes | None, long_link: bytes | None
    ) -> Member:
        name = sparse.real_name(extended) or extended.path or long_name or block.name
        kind = _KINDS.get(block.kind)
        if kind is None:
            raise refused(name, f"is of the kind {block.kind!r}, which no image can hold")
        if block.kind == b"\x00" and name.endswith(b"/"):
            kind = "dir"  # as it was written before there was a kind for them
        stored = block.size if extended.size is None else extended.size
        if kind != "file":
            stored = 0  # links and directories have no bytes, whatever their size says
        if stored < 0:
            raise corrupt("has a file of a negative size")
        size, regions = self._content(block, extended, stored if kind == "file" else None)
        mtime_ns = block.mtime * NS if extended.mtime_ns is None else extended.mtime_ns
        return Member(
            name=name,
            kind=kind,
            mode=block.mode & MODE_MASK,
            uid=_owner(name, block.uid if extended.uid is None else extended.uid),
            gid=_owner(name, block.gid if extended.gid is None else extended.gid),
            mtime_ns=mtime_ns,
            size=size,
            linkname=extended.linkpath or long_link or block.linkname,
            major=block.major,
            minor=block.minor,
            xattrs=extended.xattrs,
            regions=regions,
        )

    def _content(
        self, block: Block, extended: Extended, stored: int | None
    ) -> tuple[int, tuple[sparse.Region, ...] | None]:
        """Return a file's size and regions, and be ready to give its bytes."""
        if stored is None:
            self._regions = ()
            return 0, None
        self._left, self._padding = stored, -stored % BLOCK
        size: int | None
        if block.kind == _SPARSE:
            size, found = sparse.old_regions(block.raw, self._whole_block, self._bounds)
        elif (size := sparse.real_size(extended)) is None:
            self._regions = ((0, stored),) if stored else ()
            return stored, None
        elif sparse.is_new_form(extended):
            took, found = sparse.leading_regions(self._stored_block, self._bounds)
            stored -= took
        else:
            found = sparse.listed_regions(extended, self._bounds)
        self._regions = sparse.check_regions(found, size, stored)
        return size, self._regions

    def _whole_block(self) -> bytes:
        return self._exactly(BLOCK)

    def _stored_block(self) -> bytes:
        """Return a block of this member's bytes."""
        if self._left < BLOCK:
            raise corrupt("has a sparse file whose list of regions is broken")
        self._left -= BLOCK
        return self._exactly(BLOCK)

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) != size:
            raise corrupt("is cut off in the middle of a file")
        return data

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._exactly(min(PIECE_BYTES, size)))


def _owner(name: bytes, number: int) -> int:
    if not 0 <= number <= OWNER_MAX:
        raise refused(name, f"belongs to {number}, which is no user or group")
    return number
