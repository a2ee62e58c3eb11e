"""How much an image may hold, counted while it is read, so that a bomb ends where it passes a bound. Pure.

A layer's own figures can't be trusted: a few bytes can claim terabytes. So what is counted is what was read,
and a claim (a file's size) before anything is done for it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.manifests import DEPTH_MAX, ENTRIES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX

GIB: Final = 1024 * 1024 * 1024


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one image may hold.

    Attributes:
        entries_max: members of all layers together, and directories that they imply.
        bytes_max: of all files' sizes together, holes included; and of all layers' tars.
        ratio_max: how many times a layer may grow when it is decompressed, beyond the first
            `ratio_free_bytes` of it; files of real images grow less than 20 times.
        held_bytes_max: of what is kept of all entries: names, targets of links, attributes, regions.
        header_bytes_max: of one member's extended headers.
        regions_max: pieces of one sparse file.
        xattr_bytes_max, xattrs_max: values and number of one member's extended attributes.
        path_bytes_max, name_bytes_max, depth_max: of a path, of each name in it, and names in it.
    """

    entries_max: int = ENTRIES_MAX
    bytes_max: int = 64 * GIB
    ratio_max: int = 200
    ratio_free_bytes: int = GIB // 2
    held_bytes_max: int = GIB // 2
    header_bytes_max: int = 1024 * 1024
    regions_max: int = 65_536
    xattr_bytes_max: int = 64 * 1024
    xattrs_max: int = 64
    path_bytes_max: int = PATH_BYTES_MAX
    name_bytes_max: int = NAME_BYTES_MAX
    depth_max: int = DEPTH_MAX


class Meter:
    """Counts one image's layers together. Every method raises InvalidRequestError (layer.too_large)."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._entries = 0
        self._file_bytes = 0
        self._tar_bytes = 0
        self._layer_bytes = 0
        self._held_bytes = 0

    def begin_layer(self) -> None:
        """Begin the next layer."""
        self._layer_bytes = 0

    def entries(self, count: int = 1) -> None:
        """Count members, or directories that one implies."""
        self._entries += count
        if self._entries > self.bounds.entries_max:
            raise too_large(f"has over {self.bounds.entries_max} entries")

    def held(self, size: int) -> None:
        """Count bytes that an entry keeps in memory."""
        self._held_bytes += size
        if self._held_bytes > self.bounds.held_bytes_max:
            raise too_large(f"has names and attributes of over {self.bounds.held_bytes_max} bytes")

    def depth(self, depth: int) -> None:
        """Check how deep a directory lies, whatever links lead to it."""
        if depth > self.bounds.depth_max:
            raise too_large(f"has directories over {self.bounds.depth_max} deep")

    def file(self, size: int) -> None:
        """Count a file's size as it is claimed."""
        self._file_bytes += size
        if self._file_bytes > self.bounds.bytes_max:
            raise too_large(f"has files of over {self.bounds.bytes_max} bytes")

    def decompressed(self, size: int, compressed_so_far: int) -> None:
        """Count bytes of a layer's tar, and how many were needed for all of it so far."""
        self._tar_bytes += size
        self._layer_bytes += size
        if self._tar_bytes > self.bounds.bytes_max:
            raise too_large(f"has layers of over {self.bounds.bytes_max} bytes")
        fair = compressed_so_far * self.bounds.ratio_max
        if self._layer_bytes > max(fair, self.bounds.ratio_free_bytes):
            raise too_large(
                f"has a layer that grows over {self.bounds.ratio_max} times when decompressed"
            )


def too_large(what: str) -> InvalidRequestError:
    """Return the refusal of an image that is too large in some way."""
    return InvalidRequestError("layer.too_large", f"the image {what}")


def refused(path: bytes, why: str) -> InvalidRequestError:
    """Return the refusal of an image for what one of its paths is."""
    return InvalidRequestError("layer.refused", f"{shown(path)} in a layer {why}")


def corrupt(what: str) -> InvalidRequestError:
    """Return the error for a layer that is no usable archive."""
    return InvalidRequestError("layer.corrupt", f"a layer {what}")


def shown(path: bytes) -> str:
    """Return a path for people: names are bytes, and may be anything."""
    text = path[:200].decode("utf-8", "backslashreplace")
    return repr("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))
