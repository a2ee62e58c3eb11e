"""Lists of what starts read, beside trees: bounded, checked, and gone with their tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import HOT_OBJECTS_MAX
from glowplug_imagecache.hot import HotLists
from glowplug_imagecache.store import Store

from tests.support.builders_images import a_store

OBJECTS = [Digest("1" * 64), Digest("2" * 64)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def test_a_list_is_kept_beside_its_tree_and_goes_with_it(store: Store, tmp_path: Path) -> None:
    lists, tree = HotLists(store), store.add_blob(b"a tree")
    assert lists.get(tree) == []
    lists.put(tree, OBJECTS)
    assert HotLists(store).get(tree) == OBJECTS
    lists.put(tree, OBJECTS[::-1])
    assert lists.get(tree) == OBJECTS[::-1]
    assert lists.sweep() == 0
    (tmp_path / "blobs" / tree[:2] / tree).unlink()
    assert lists.sweep() == 1
    assert lists.get(tree) == []


def test_only_trees_that_are_here_have_one_and_it_is_bounded(store: Store) -> None:
    lists, tree = HotLists(store), store.add_blob(b"a tree")
    with pytest.raises(NotFoundError):
        lists.put(Digest("3" * 64), OBJECTS)
    with pytest.raises(InvalidRequestError):
        lists.put(tree, OBJECTS * HOT_OBJECTS_MAX)
    assert lists.get(tree) == []


def test_what_is_no_list_is_none(store: Store, tmp_path: Path) -> None:
    lists, tree = HotLists(store), store.add_blob(b"a tree")
    lists.put(tree, OBJECTS)
    path = tmp_path / "hot" / tree[:2] / tree
    path.write_bytes(path.read_bytes()[:-3])
    assert lists.get(tree) == []
