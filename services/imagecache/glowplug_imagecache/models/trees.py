"""Files of a model as the tree that containers see: the same files, the same tree, whoever sent them.

Owners, times and modes of whoever had the files say nothing about weights, so they are all alike here. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from glowplug_contracts.weights import check_path

from glowplug_imagecache.layers.bounds import Bounds, Meter
from glowplug_imagecache.layers.members import Put
from glowplug_imagecache.layers.tree import Tree

FOLDER_MODE: Final = 0o755
FILE_MODE: Final = 0o644
PROGRAM_MODE: Final = 0o755


def tree_of(files: Iterable[tuple[str, int, bool]], bounds: Bounds) -> Tree:
    """Return the tree of files (path, size, executable); their contents have the numbers of their places.

    Raises: InvalidRequestError (model.refused, layer.too_large).
    """
    tree = Tree(Meter(bounds))
    tree.begin_layer()
    for number, (path, size, executable) in enumerate(files):
        parts = tuple(part.encode() for part in check_path(path))
        mode = PROGRAM_MODE if executable else FILE_MODE
        tree.apply(Put(path=parts, kind="file", mode=mode, size=size, content=number))
    return tree
