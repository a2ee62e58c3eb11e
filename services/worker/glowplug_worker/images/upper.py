"""The upper directory of an overlay as changes of a tree: what was touched, what is gone, what hides.

The kernel keeps a deleted path as a device of number 0 and a directory that hides what was below as an attribute;
owners are ids of the host that were the container's. All of that is turned back into what the container saw.
Blocks: callers run it in threads.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.tree_changes import Changes
from glowplug_contracts.trees import Entry, FlatTree, HardLink, Xattr

from glowplug_worker.images.descend import Parts
from glowplug_worker.images.flat_objects import Flattened
from glowplug_worker.images.flatten import flatten

IDS: Final = 65_536
# Of the kernel's own; "trusted" where root mounted, "user" where an ordinary user did.
OVERLAY: Final = (b"trusted.overlay.", b"user.overlay.")
OPAQUE: Final = b"overlay.opaque"
YES: Final = b"y"
# Every container gets these anew, whatever an image has there.
OWN: Final = ((b"proc",), (b"dev",), (b"sys",), (b"glowplug",), (b"layer",))
_CAPABILITY: Final = b"security.capability"
_NAMESPACED: Final = 0x03000000
_PLAIN: Final = 0x02000000
_EFFECTIVE: Final = 0x000001


class Read(msgspec.Struct, frozen=True):
    """Changes, and where their objects are read."""

    changes: Changes
    flattened: Flattened


def read_upper(
    upper: Path, base: FlatTree, first_id: int | None, places: tuple[str, ...] = ()
) -> Read:
    """Return what an overlay's upper directory says.

    Args:
        base: the tree below, which says whose files are where owners were not kept.
        first_id: the host's id that was 0 inside; None = the one id that there was.
        places: paths that were only made for something to be mounted on.

    Raises: InvalidRequestError for what a tree can't hold; OSError.
    """
    lens = _Upper(owners_of(base) if first_id is None else {}, first_id, places)
    flattened = flatten(upper, lens=lens)
    changes = Changes(tree=flattened.tree, gone=tuple(lens.gone), bare=tuple(lens.bare))
    return Read(changes, flattened)


def owners_of(tree: FlatTree) -> dict[Parts, tuple[int, int]]:
    """Return to whom every path of a tree belongs."""
    paths: list[Parts] = []
    owners: dict[Parts, tuple[int, int]] = {}
    for number, entry in enumerate(tree.entries):
        path = (*paths[entry.parent], entry.name) if number else ()
        paths.append(path)
        own = tree.entries[entry.target] if isinstance(entry, HardLink) else entry
        assert isinstance(own, Entry)  # noqa: S101 - links lead to what is none
        owners[path] = (own.uid, own.gid)
    return owners


class _Upper:
    """See the module; collects what is gone while it is read (`flatten.Lens`)."""

    def __init__(
        self,
        owners: Mapping[Parts, tuple[int, int]],
        first_id: int | None,
        places: tuple[str, ...],
    ) -> None:
        self.gone: list[Parts] = []
        self.bare: list[Parts] = []
        self._owners = owners
        self._first_id = first_id
        made = {tuple(os.fsencode(path).strip(b"/").split(b"/")) for path in places}
        self._not_ours = frozenset((*OWN, *made))

    def skips(self, parts: Parts, facts: os.stat_result) -> bool:
        """Return whether it is a mark of the kernel's, or a mount's place."""
        if parts in self._not_ours:
            return True
        if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0:
            self.gone.append(parts)
            return True
        return False

    def owner(self, parts: Parts, facts: os.stat_result) -> tuple[int, int]:
        """Return whose it was inside."""
        if self._first_id is None:
            return self._owners.get(parts, (0, 0))
        return self._inside(facts.st_uid), self._inside(facts.st_gid)

    def xattrs(self, parts: Parts, found: tuple[Xattr, ...]) -> tuple[Xattr, ...]:
        """Return what the container saw."""
        kept: list[Xattr] = []
        for each in found:
            if each.name.endswith(OPAQUE) and each.name.startswith(OVERLAY):
                if each.value == YES:
                    self.bare.append(parts)
            elif each.name == _CAPABILITY:
                kept.append(Xattr(each.name, self._capability(each.value)))
            elif not each.name.startswith(OVERLAY):
                kept.append(each)
        return tuple(kept)

    def _inside(self, owner: int) -> int:
        """Return an id as the container had it; what it did not have is root's: the kernel made it."""
        assert self._first_id is not None  # noqa: S101 - `owner` asks only then
        inside = owner - self._first_id
        return inside if 0 <= inside < IDS else 0

    def _capability(self, value: bytes) -> bytes:
        """Return capabilities without the user namespace in which they were given."""
        if len(value) != struct.calcsize("<6I"):
            return value
        head, *sets, root = struct.unpack("<6I", value)
        if head & ~_EFFECTIVE != _NAMESPACED or self._inside(root) != 0:
            return value
        return struct.pack("<5I", _PLAIN | head & _EFFECTIVE, *sets)
