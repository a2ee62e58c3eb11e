"""Put files on top of an image: manifests in, a manifest out. Pure.

A file step needs no container: an image is a list of paths, and adding files adds to the list.
"""

from __future__ import annotations

from collections.abc import Sequence

from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.manifests import check_entries
from glowplug_contracts.messages.image import ManifestEntry

DIR_MODE = 0o755
CACHES = "__pycache__"


def merge_entries(
    below: Sequence[ManifestEntry], added: Sequence[ManifestEntry]
) -> tuple[ManifestEntry, ...]:
    """Return the tree of `below` with `added` in it; directories in between are made.

    A file or link takes the place of one that was there. Modules that were compiled from a file which
    is replaced go, since nothing would compare them with it again.

    Raises: InvalidRequestError where a file would have to become a directory, or the other way round.
    """
    tree = {entry.path: entry for entry in below}
    for entry in sorted(added, key=lambda entry: entry.path):
        _make_parents(tree, entry.path)
        there = tree.get(entry.path)
        if there is not None and (there.kind == "dir") != (entry.kind == "dir"):
            raise InvalidRequestError(
                "request.invalid",
                f"path {entry.path!r} is a {there.kind} in the image and a {entry.kind} in the step",
            )
        tree[entry.path] = entry
    own = {entry.path for entry in added}
    stale = {stem for path in own if (stem := _compiled_stem(path))}
    merged = tuple(
        entry
        for path, entry in tree.items()
        if path in own or not any(path.startswith(stem) for stem in stale if CACHES in path)
    )
    check_entries(merged)
    return merged


def _make_parents(tree: dict[str, ManifestEntry], path: str) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        parent = "/".join(parts[:depth])
        there = tree.setdefault(parent, ManifestEntry(path=parent, kind="dir", mode=DIR_MODE))
        if there.kind != "dir":
            raise InvalidRequestError(
                "request.invalid", f"path {parent!r} is a {there.kind} in the image, no directory"
            )


def _compiled_stem(path: str) -> str:
    """Return how compiled modules of a source begin ("a/__pycache__/b."), or "" for other files."""
    folder, _, name = path.rpartition("/")
    if not name.endswith(".py"):
        return ""
    return f"{folder}/{CACHES}/{name[:-2]}".lstrip("/")
