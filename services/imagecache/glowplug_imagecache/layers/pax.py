"""Extended headers: "length key=value" records that override a block's fields. Pure.

Keys that the field's tools know are read: path, linkpath, size, owner, mtime, SCHILY.xattr.* and the three
forms of sparse files. Others (comments, hdrcharset, LIBARCHIVE.*) are left out, as those tools do.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from glowplug_imagecache.layers.bounds import Bounds, corrupt, too_large
from glowplug_imagecache.layers.headers import NUMBER_MAX

XATTR: Final = b"SCHILY.xattr."
SPARSE: Final = b"GNU.sparse."
_DIGITS: Final = re.compile(rb"[0-9]{1,19}\Z")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]{0,32}))?\Z")
_RECORD: Final = re.compile(rb"([0-9]{1,10}) ")
_NS: Final = 9  # digits of a second


class Extended(msgspec.Struct, frozen=True, kw_only=True):
    """What extended headers say; None where they say nothing.

    Attributes:
        sparse: records that begin with "GNU.sparse.", without that, in order: version 0.0 repeats keys.
    """

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: dict[bytes, bytes] = {}
    sparse: tuple[tuple[bytes, bytes], ...] = ()


def parse_pax(data: bytes, bounds: Bounds) -> Extended:
    """Return what the records say; a later one of the same key rules.

    Raises: InvalidRequestError (layer.corrupt, layer.too_large).
    """
    fields: dict[bytes, bytes] = {}
    xattrs: dict[bytes, bytes] = {}
    sparse: list[tuple[bytes, bytes]] = []
    for key, value in records(data):
        if key.startswith(XATTR):
            xattrs[key[len(XATTR) :]] = value
        elif key.startswith(SPARSE):
            sparse.append((key[len(SPARSE) :], value))
        elif value:
            fields[key] = value
        else:
            fields.pop(key, None)  # an empty value takes an earlier one back
    if len(xattrs) > bounds.xattrs_max or len(sparse) > 2 * bounds.regions_max:
        raise too_large("has a file with too many attributes or holes")
    if any(len(value) > bounds.xattr_bytes_max for value in xattrs.values()):
        raise too_large(f"has an extended attribute of over {bounds.xattr_bytes_max} bytes")
    if b"\x00" in fields.get(b"path", b"") + fields.get(b"linkpath", b""):
        raise corrupt("has a zero byte in a path of its archive")
    return Extended(
        path=fields.get(b"path"),
        linkpath=fields.get(b"linkpath"),
        size=_count(fields.get(b"size")),
        uid=_count(fields.get(b"uid")),
        gid=_count(fields.get(b"gid")),
        mtime_ns=_time(fields.get(b"mtime")),
        xattrs=xattrs,
        sparse=tuple(sparse),
    )


def records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the records in order. Raises: InvalidRequestError (layer.corrupt)."""
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data):
        length = _RECORD.match(data, at)
        end = at + int(length[1]) if length else 0
        if length is None or end > len(data) or end <= length.end() or data[end - 1] != ord("\n"):
            # Some writers fill the last block with zeros and count them in.
            if not data[at:].strip(b"\x00"):
                break
            raise corrupt("has an extended header in its archive that can't be read")
        key, equals, value = data[length.end() : end - 1].partition(b"=")
        if not key or not equals:
            raise corrupt("has an extended header in its archive without a key")
        found.append((key, value))
        at = end
    return found


def count(value: bytes) -> int:
    """Return a decimal number that is not negative. Raises: InvalidRequestError (layer.corrupt)."""
    if not _DIGITS.match(value) or int(value) > NUMBER_MAX:
        raise corrupt("has a number in an extended header that is none")
    return int(value)


def _count(value: bytes | None) -> int | None:
    return None if value is None else count(value)


def _time(value: bytes | None) -> int | None:
    """Return seconds with a fraction as nanoseconds, cut, not rounded."""
    if value is None:
        return None
    found = _TIME.match(value)
    if found is None:
        raise corrupt("has a time in an extended header that is none")
    fraction = (found[3] or b"").ljust(_NS, b"0")[:_NS]
    ns = int(found[2]) * 10**_NS + int(fraction)
    return -ns if found[1] else ns
