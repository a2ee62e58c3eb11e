"""What a tree of files is, path by path, and how two of them differ. Knows nothing of the platform.

Facts are read with plain system calls below a directory: what umoci unpacked, what a worker holds, or the root of
a running container, looked into from outside (`/proc/PID/root`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

READ_BYTES = 1 << 20
# Owners, times and attributes of these are what somebody made them on the way.
NAME_ONLY = ("kind", "content")
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
# What speaks to the kernel that unpacked, and is no part of an image.
NOT_OF_AN_IMAGE = (b"trusted.", b"security.selinux")


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """One path. Attributes: inode: equal for names of one file; content: SHA-256, or a link's target."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    content: str
    xattrs: tuple[tuple[bytes, bytes], ...]
    inode: int
    links: int


Facts = dict[bytes, Fact]


def read_facts(root: Path, skip: Callable[[bytes], bool] = lambda _: False) -> Facts:
    """Return everything below `root`; the root itself is b"". What `skip` says is left out with all below it."""
    top = os.fsencode(root)
    found: Facts = {}
    status = os.stat(top)
    found[b""] = _fact(top, status, "dir", {})
    hashed: dict[int, str] = {}
    for path, status in _walk(top, b"", skip):
        kind = KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            # Containers get their devices from the platform: those of images are left out.
            if not path.startswith(b"dev/"):
                raise ValueError(f"a device outside /dev: {path!r}")
            continue
        found[path] = _fact(top + b"/" + path, status, kind, hashed)
    return found


def differences(
    ours: Mapping[bytes, Fact],
    theirs: Mapping[bytes, Fact],
    name_only: Callable[[bytes], bool] = lambda _: False,
) -> list[str]:
    """Return every path and field that differ; of paths that `name_only` names, kind and content count."""
    found = [f"only ours: {path!r}" for path in sorted(ours.keys() - theirs.keys())]
    found += [f"only theirs: {path!r}" for path in sorted(theirs.keys() - ours.keys())]
    both = sorted(ours.keys() & theirs.keys())
    same_ours, same_theirs = _same_as(ours, both), _same_as(theirs, both)
    fields = [name for name in Fact.__struct_fields__ if name not in {"inode", "links"}]
    for path in both:
        for field in NAME_ONLY if name_only(path) else fields:
            mine, other = getattr(ours[path], field), getattr(theirs[path], field)
            if mine != other:
                found.append(f"{path!r}: {field} is {mine!r}, and {other!r} there")
        if same_ours[path] != same_theirs[path]:
            found.append(
                f"{path!r}: is the same file as {same_ours[path]!r}, and {same_theirs[path]!r} there"
            )
    return found


def _same_as(facts: Mapping[bytes, Fact], paths: list[bytes]) -> dict[bytes, bytes]:
    """Return of each path the first path of the same file."""
    first: dict[int, bytes] = {}
    found: dict[bytes, bytes] = {}
    for path in paths:
        fact = facts[path]
        one_of_many = fact.links > 1 and fact.kind != "dir"
        found[path] = first.setdefault(fact.inode, path) if one_of_many else path
    return found


def _walk(
    top: bytes, inside: bytes, skip: Callable[[bytes], bool]
) -> Iterator[tuple[bytes, os.stat_result]]:
    waiting = [inside]
    while waiting:
        folder = waiting.pop()
        with os.scandir(top + b"/" + folder) as entries:
            found = sorted(entry.name for entry in entries)
        for name in found:
            path = folder + b"/" + name if folder else name
            if skip(path):
                continue
            status = os.lstat(top + b"/" + path)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)


def _fact(path: bytes, status: os.stat_result, kind: str, hashed: dict[int, str]) -> Fact:
    content = ""
    if kind == "link":
        content = os.fsdecode(os.readlink(path))
    elif kind == "file":
        content = hashed.get(status.st_ino, "") if status.st_nlink > 1 else ""
        if not content:
            content = _hash(path)
            if status.st_nlink > 1:
                hashed[status.st_ino] = content
    return Fact(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        content=content,
        xattrs=_xattrs(path),
        inode=status.st_ino,
        links=status.st_nlink,
    )


def _hash(path: bytes) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while data := os.read(descriptor, READ_BYTES):
            digest.update(data)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = sorted(os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if not name.startswith(NOT_OF_AN_IMAGE)
    )
