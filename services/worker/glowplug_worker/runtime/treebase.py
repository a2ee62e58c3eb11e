"""An image's tree as a container's root: what is bound, linked and made, so that everything else finds a place.

The tree is read-only, and often lacks the places where code, volumes and account files go. So nothing is
mounted over the tree as a whole: the root is an empty file system of ours, into which what the tree has is
bound, entry by entry; directories on the way to a place that it lacks are opened the same way. Blocks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from glowplug_contracts.errors import RejectedError

from glowplug_worker.ports import StartPlan

# The kernel's own, and what every container gets anew.
OWN: Final = ("/proc", "/dev", "/sys")
# More would make every start slow: it is a volume or a driver's file far down in a large directory.
BINDS_MAX: Final = 2000


class Bound(NamedTuple):
    """Something of the tree at its place; `inner` is its path from the tree's root."""

    target: str
    inner: str
    directory: bool


class TreeBase(NamedTuple):
    """What makes a root of a tree, in the order of paths."""

    directories: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    binds: tuple[Bound, ...]


def places_of(plan: StartPlan, binds: Iterable[tuple[str, bool]]) -> dict[str, bool]:
    """Return where something else is mounted than the tree, and whether that is a directory."""
    places = dict.fromkeys((*OWN, *plan.tmpfs, *plan.directories), True)
    places |= dict(binds)
    places |= {each.path: False for each in plan.devices}
    return places


def tree_base(root: Path, places: dict[str, bool]) -> TreeBase:
    """Return how a tree becomes a root in which every one of `places` can be mounted on.

    Raises: RejectedError (image.unsupported) where that takes too much.
    """
    lacking = [path for path, is_folder in places.items() if not _is_there(root, path, is_folder)]
    opened = {"/"}
    for path in lacking:
        opened |= {str(parent) for parent in Path(path).parents}
    directories: list[str] = []
    links: list[tuple[str, str]] = []
    binds: list[Bound] = []
    waiting = ["/"]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder.lstrip("/")) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            path = f"{folder.rstrip('/')}/{entry.name}"
            is_folder = entry.is_dir(follow_symlinks=False)
            if path in opened and is_folder:
                directories.append(path)
                waiting.append(path)
            elif path in opened or path in places:
                continue  # ours stands there, whatever the tree has
            elif entry.is_symlink():
                links.append((path, str(Path(entry.path).readlink())))
            else:
                binds.append(Bound(path, path.lstrip("/"), is_folder))
        if len(binds) > BINDS_MAX:
            raise RejectedError(
                "image.unsupported",
                f"the image lacks places that are mounted on ({', '.join(sorted(lacking)[:5])}), and making "
                f"them takes over {BINDS_MAX} mounts: make empty ones in the image",
            )
    return TreeBase(tuple(directories), tuple(links), tuple(binds))


def _is_there(root: Path, path: str, is_folder: bool) -> bool:  # noqa: FBT001 - of a dictionary
    """Return whether the tree has a place of the right kind, without a link on the way; "/x" never has."""
    parts = path.strip("/").split("/")
    if len(parts) == 1:
        return False
    at = root
    for number, part in enumerate(parts):
        at /= part
        try:
            mode = at.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        is_last = number == len(parts) - 1
        if not (stat.S_ISDIR(mode) if is_folder or not is_last else stat.S_ISREG(mode)):
            return False
    return True
