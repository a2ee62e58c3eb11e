"""What may be in an image, and what it then is: a tar's member becomes a change to a tree. Pure.

A layer's paths are relative to the image's root and stay below it. What could speak to the host instead
of the image (devices, attributes of its kernel) is refused, or left out where real images have it and a
container gets its own anyway: nodes in /dev.
"""

from __future__ import annotations

from typing import Final

import msgspec

from glowplug_imagecache.layers.bounds import Bounds, refused
from glowplug_imagecache.layers.sparse import Region
from glowplug_imagecache.layers.tar import Kind, Member

Path = tuple[bytes, ...]

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
_WHITEOUT_OWN: Final = b".wh..wh."  # what aufs kept for itself
_DEV: Final = b"dev"

# Attributes that belong to files. Others rule the host's kernel (overlay's, labels), or mean nothing here.
XATTRS_KEPT: Final = frozenset(
    {b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"}
)
USER_XATTRS: Final = b"user."
_USER_XATTRS_OF_OVERLAY: Final = b"user.overlay."


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Something is at a path now.

    Attributes:
        path: the names from the root on; () is the root.
        target: of a symbolic link: its text, as it is.
        content: what the caller knows a file's bytes by.
        regions: as in `Member`.
    """

    path: Path
    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = {}
    content: int = -1
    regions: tuple[Region, ...] | None = None


class LinkTo(msgspec.Struct, frozen=True, kw_only=True):
    """A path is another name of what is at `target`."""

    path: Path
    target: Path


class Whiteout(msgspec.Struct, frozen=True, kw_only=True):
    """What lower layers have at a path is gone."""

    path: Path


class Opaque(msgspec.Struct, frozen=True, kw_only=True):
    """What lower layers have in a directory is gone."""

    path: Path


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """It changes nothing here, with the reason."""

    path: Path
    why: str


Change = Put | LinkTo | Whiteout | Opaque | LeftOut


def read_member(member: Member, bounds: Bounds, content: int = -1) -> Change:
    """Return what a member changes.

    Raises: InvalidRequestError (layer.refused) with the reason.
    """
    path = split_path(member.name, bounds)
    if not path:
        return _root(member, bounds)
    marker = _marker(member, path)
    if marker is not None:
        return marker
    if member.kind in ("char", "block"):
        if path[0] == _DEV:
            return LeftOut(path=path, why="is a device; containers get their own /dev")
        raise refused(
            member.name, "is a device; only those in /dev are left out, others are refused"
        )
    if member.kind == "hardlink":
        # Some builders write these from the root on; they lead nowhere else.
        return LinkTo(path=path, target=split_path(member.linkname.lstrip(b"/"), bounds))
    return _put(member, path, bounds, content)


def _marker(member: Member, path: Path) -> Change | None:
    """Return what a name that begins with ".wh." says, or None for other names."""
    name = path[-1]
    if name == OPAQUE:
        return Opaque(path=path[:-1])
    if any(one.startswith(_WHITEOUT_OWN) for one in path):
        return LeftOut(path=path, why="belongs to aufs")
    if not name.startswith(WHITEOUT):
        return None
    gone = name[len(WHITEOUT) :]
    if gone in (b"", b".", b".."):
        raise refused(member.name, "marks nothing as removed")
    return Whiteout(path=(*path[:-1], gone))


def _put(member: Member, path: Path, bounds: Bounds, content: int) -> Put:
    is_link = member.kind == "link"
    if is_link:
        _check_target(member.name, path, member.linkname, bounds)
    return Put(
        path=path,
        kind=member.kind,
        mode=0o777 if is_link else member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime_ns=member.mtime_ns,
        size=member.size,
        target=member.linkname if is_link else b"",
        xattrs=kept_xattrs(member.xattrs),
        content=content,
        regions=member.regions,
    )


def split_path(name: bytes, bounds: Bounds) -> Path:
    """Return the names in a path. Raises: InvalidRequestError (layer.refused)."""
    if name.startswith(b"/"):
        raise refused(name, "begins with '/'; paths in a layer are relative to the image's root")
    if b"\x00" in name:
        raise refused(name, "has a zero byte in it")
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise refused(name, "leads upwards with '..'")
    if sum(map(len, parts)) + len(parts) > bounds.path_bytes_max:
        raise refused(name, f"is longer than {bounds.path_bytes_max} bytes")
    if any(len(part) > bounds.name_bytes_max for part in parts):
        raise refused(name, f"has a name of over {bounds.name_bytes_max} bytes")
    if len(parts) > bounds.depth_max:
        raise refused(name, f"is more than {bounds.depth_max} directories deep")
    return parts


def kept_xattrs(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the attributes that belong to files."""
    return {
        name: value
        for name, value in sorted(xattrs.items())
        if name in XATTRS_KEPT
        or (name.startswith(USER_XATTRS) and not name.startswith(_USER_XATTRS_OF_OVERLAY))
    }


def _root(member: Member, bounds: Bounds) -> Change:
    if member.kind != "dir":
        raise refused(member.name, "is the image's root, which must be a directory")
    return _put(member, (), bounds, -1)


def _check_target(name: bytes, path: Path, target: bytes, bounds: Bounds) -> None:
    """Refuse links that lead out of the root as they are written. Docker does so too."""
    if not target or b"\x00" in target or len(target) >= bounds.path_bytes_max:
        raise refused(name, "is a link without a usable target")
    depth = 0 if target.startswith(b"/") else len(path) - 1
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0 and not target.startswith(b"/"):
            raise refused(name, f"is a link to {target[:200]!r}, which leads out of the image")
