"""What images that stay need, counted, so that one after another can be taken away. Pure.

An object is needed by the manifests that name it: images, and trees that stay. A tree stays while an image that
stays stands on it, while a model is it, or while it is fresh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from glowplug_contracts.ids import Digest

from glowplug_imagecache.stock import ImageSeen, Stock, TreeSeen


class Needed:
    """See the module.

    Args:
        images: those that stay.
        cutoff: what was used or touched since then stays, whatever names it.
        held_trees: models, which no image has to stand on.
        trees_stay: every tree of the stock does: those that go are gone.
    """

    def __init__(
        self,
        stock: Stock,
        images: Iterable[ImageSeen],
        cutoff: float,
        *,
        held_trees: frozenset[Digest] = frozenset(),
        trees_stay: bool = False,
    ) -> None:
        self._objects = stock.objects
        self._trees = {tree.digest: tree for tree in stock.trees}
        self._cutoff = cutoff
        self._held_trees = held_trees
        self._trees_stay = trees_stay
        self._counts = [0] * len(stock.objects)
        staying = list(images)
        self._standing = Counter(image.base for image in staying if image.base in self._trees)
        for image in staying:
            self._count(image.objects, 1)
        for tree in stock.trees:
            if not self.is_free_tree(tree):
                self._count(tree.objects, 1)

    def is_free(self, place: int) -> bool:
        """Return whether nothing that stays names the object, and nobody touched it lately."""
        return not self._counts[place] and self._objects[place].touched_at < self._cutoff

    def is_free_tree(self, tree: TreeSeen) -> bool:
        """Return whether no image that stays stands on the tree, and nobody used it lately."""
        if self._trees_stay or self._standing[tree.digest] or tree.digest in self._held_trees:
            return False
        return tree.used_at < self._cutoff

    def has_all_of(self, image: ImageSeen) -> bool:
        """Return whether everything that an image needs is needed by what stays, too."""
        if image.objects is None or not all(self._counts[place] for place in image.objects):
            return False
        tree = self._tree_of(image)
        return tree is None or not self.is_free_tree(tree)

    def take(self, image: ImageSeen) -> int:
        """Count an image as gone; return the bytes that gives."""
        freed = image.size + self._release(image.objects)
        tree = self._tree_of(image)
        if tree is not None:
            self._standing[tree.digest] -= 1
            if self.is_free_tree(tree):
                freed += tree.size + self._release(tree.objects)
        return freed

    def _tree_of(self, image: ImageSeen) -> TreeSeen | None:
        return None if image.base is None else self._trees.get(image.base)

    def _release(self, objects: Sequence[int] | None) -> int:
        self._count(objects, -1)
        freed = [place for place in objects or () if self.is_free(place)]
        return sum(self._objects[place].size for place in freed)

    def _count(self, objects: Sequence[int] | None, by: int) -> None:
        for place in objects or ():
            self._counts[place] += by
