"""Changes laid over a tree: what a plain table of paths says comes out, and is a tree by every rule."""

from __future__ import annotations

import msgspec
from glowplug_contracts.tree_changes import FOLDER, Changes, Path, apply_changes, pick
from glowplug_contracts.tree_rules import check_tree, decode_tree
from glowplug_contracts.trees import Directory, File, FlatTree, HardLink, PackedFile, encode_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders_trees import ABOUTS, LEAVES, Folder, flat_tree

# So few names that trees meet in many places.
FEW = st.sampled_from([b"a", b"b", b"c", b"d"])


def _folders(inner):
    return st.builds(Folder, children=st.dictionaries(FEW, inner, max_size=4), about=ABOUTS)


TREES = _folders(st.recursive(LEAVES, _folders, max_leaves=12)).map(
    lambda each: flat_tree(each).tree
)


def paths_of(tree: FlatTree) -> list[Path]:
    paths: list[Path] = []
    for number, entry in enumerate(tree.entries):
        paths.append((*paths[entry.parent], entry.name) if number else ())
    return paths


def table(tree: FlatTree) -> dict[Path, tuple[object, ...]]:
    """Return everything that a tree says of each path, whatever the numbers are called."""
    found = {}
    for path, named in zip(paths_of(tree), tree.entries, strict=True):
        entry = tree.entries[named.target] if isinstance(named, HardLink) else named
        content: object = None
        if isinstance(entry, PackedFile):
            content = (tree.packs[entry.pack], entry.block)
            entry = msgspec.structs.replace(entry, pack=0, block=0)
        elif isinstance(entry, File):
            content = [
                (run.at + at, tree.pieces[run.first + at])
                for run in entry.runs
                for at in range(run.count)
            ]
            entry = msgspec.structs.replace(entry, runs=())
        found[path] = (msgspec.structs.replace(entry, parent=0, name=b""), content)
    return found


def is_dir(known: tuple[object, ...] | None) -> bool:
    return known is not None and isinstance(known[0], Directory)


def below(path: Path, top: Path) -> bool:
    return path[: len(top)] == top and path != top


def told(base: FlatTree, changes: Changes) -> dict[Path, tuple[object, ...]]:
    """Apply changes the plain way."""
    result = table(base)
    for gone in changes.gone:
        result = {
            p: each for p, each in result.items() if not gone or not (p == gone or below(p, gone))
        }
    for path, new in sorted(table(changes.tree).items(), key=lambda item: len(item[0])):
        hides = path in changes.bare or not (is_dir(result.get(path)) and is_dir(new))
        if hides:
            result = {p: each for p, each in result.items() if not below(p, path)}
        result[path] = new
    return result


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_comes_out_is_what_a_table_of_paths_says(data: st.DataObject) -> None:
    base, added = data.draw(TREES), data.draw(TREES)
    folders = [
        path
        for path, each in zip(paths_of(added), added.entries, strict=True)
        if isinstance(each, Directory)
    ]
    new = set(paths_of(added))
    old = [path for path in paths_of(base) if path and path not in new]
    changes = Changes(
        tree=added,
        gone=data.draw(st.lists(st.sampled_from(old), unique=True)) if old else (),
        bare=data.draw(st.lists(st.sampled_from(folders), unique=True)),
    )
    made = apply_changes(base, changes)
    check_tree(made)
    assert table(made) == told(base, changes)
    assert decode_tree(encode_tree(made)) == made


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_no_change_is_the_same_tree(tree: FlatTree) -> None:
    """The root alone says that nothing else was touched; equal trees are equal bytes."""
    root = FlatTree(entries=tree.entries[:1])
    assert encode_tree(apply_changes(tree, Changes(tree=root))) == encode_tree(tree)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.sampled_from([(), (b"new",), (b"new", b"deeper")]))
def test_what_is_picked_is_what_was_there_at_its_new_place(tree: FlatTree, place: Path) -> None:
    made = pick(tree, [((), place)], lambda entry: entry)
    check_tree(made)
    expected = {(*place, *path): each for path, each in table(tree).items()}
    for deep in range(len(place)):
        expected[place[:deep]] = (FOLDER, None)
    assert table(made) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, TREES)
def test_directories_that_were_there_stay_what_they_were_where_things_are_only_added(
    base: FlatTree, added: FlatTree
) -> None:
    before, after = table(base), table(apply_changes(base, Changes(tree=added, adds_only=True)))
    new = table(added)
    for path in after:
        if is_dir(before.get(path)) and is_dir(new.get(path)) and is_dir(after[path]):
            above = [before.get(path[:deep]) for deep in range(len(path))]
            shadowed = [new.get(path[:deep]) for deep in range(len(path))]
            if all(map(is_dir, above)) and all(map(is_dir, shadowed)):
                assert after[path] == before[path]
