"""What is in a running container's root, seen from outside, and which of it is the image's.

A container's root is an empty file system into which the image's tree is bound entry by entry, with the platform's
own places (/proc, /tmp, account files, code) between them. Which is which, its mount table says.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

LAZY = "erofs"
# Whatever an image has there, containers have the kernel's and the platform's, or nothing.
NEVER_THE_IMAGES = (b"proc", b"dev", b"sys")
# Where a worker has a tree that it extracted.
EXTRACTED = re.compile(r"/trees/[0-9a-f]{64}/layer(/|$)")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """One line of a mount table. Attributes: root: what of the file system is mounted; point: where."""

    root: str
    point: bytes
    kind: str

    @property
    def is_tree(self) -> bool:
        """Return whether it shows a part of an image's tree."""
        return self.kind == LAZY or EXTRACTED.search(self.root) is not None


class View(msgspec.Struct, frozen=True):
    """A container's root. Attributes: root: a path to it; laid_over: places that are the platform's own."""

    root: Path
    mounts: tuple[Mount, ...]

    @property
    def laid_over(self) -> tuple[bytes, ...]:
        """Return the places that are not the image's, from the root."""
        mounted = (each.point for each in self.mounts if each.point and not each.is_tree)
        return (*NEVER_THE_IMAGES, *mounted)

    def on_the_way(self, path: bytes) -> bool:
        """Return whether a path leads to one of them."""
        return any(each.startswith(path + b"/") for each in self.laid_over)

    def skip(self, path: bytes) -> bool:
        """Return whether a path is one of them; what is below is not asked for then."""
        return path in self.laid_over

    def covered(self, path: bytes) -> bool:
        """Return whether a path is one of them, or below one."""
        return any(path == each or path.startswith(each + b"/") for each in self.laid_over)

    def name_only(self, path: bytes) -> bool:
        """Return whether a path was made by the platform, so that something else finds a place beside it."""
        trees = [each.point for each in self.mounts if each.is_tree]
        return not any(not each or path == each or path.startswith(each + b"/") for each in trees)

    @property
    def methods(self) -> set[str]:
        """Return how the tree is there, as the mount table tells."""
        return {
            each.kind if each.kind == LAZY else "extraction" for each in self.mounts if each.is_tree
        }


def look_into(pid: int) -> View:
    """Return the root of a process. Raises: OSError if it is no more."""
    mounts = tuple(_mounts(Path(f"/proc/{pid}/mountinfo").read_bytes()))
    return View(Path(f"/proc/{pid}/root"), mounts)


def process_with(word: str) -> int:
    """Return the process that has `word` in its environment. Raises: LookupError."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                return int(path.parent.name)
    raise LookupError(f"no process has {word}")


def _mounts(table: bytes) -> Iterator[Mount]:
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        point = _plain(fields[4]).strip(b"/")
        yield Mount(
            _plain(fields[3]).decode(errors="replace"), point, after.split(b" ")[0].decode()
        )


def _plain(text: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), text)
