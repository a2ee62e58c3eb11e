"""The next version of an image stores what is new, though files lie in packs beside others that are not."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from glowplug_contracts.ids import Digest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.objects import stored_form
from glowplug_imagecache.store import Store

from tests.support.bases import a_layer
from tests.support.builders_images import a_store, chunk_file, extract, read_tree

FILES = 600
CHANCE = random.Random(15)
WORDS = [f"word{number}" for number in range(400)]


def a_text(chance: random.Random) -> bytes:
    return " ".join(chance.choices(WORDS, k=chance.randrange(20, 800))).encode()


def first_version() -> dict[str, bytes]:
    chance = random.Random(1)
    files = {f"lib/d{number % 20}/f{number}.py": a_text(chance) for number in range(FILES)}
    files["lib/large.so"] = chance.randbytes(3 << 20)
    return files


def edited(files: Mapping[str, bytes], share: float) -> dict[str, bytes]:
    """Return the files with a share of the small ones changed in the middle, all over the tree."""
    chance = random.Random(2)
    small = sorted(name for name in files if name.endswith(".py"))
    changed = dict(files)
    for name in chance.sample(small, round(len(small) * share)):
        middle = len(changed[name]) // 2
        changed[name] = changed[name][:middle] + b" edited " + changed[name][middle:]
    return changed


def flattened(store: Store, files: Mapping[str, bytes], folder: Path, *like: Digest) -> Digest:
    tar = a_layer(files, python="")
    path = folder / "layer"
    path.write_bytes(tar)
    return flatten_layers(
        store, [(path, "sha256:" + hashlib.sha256(tar).hexdigest())], like=like
    ).digest


def chunk_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "chunks").glob("*/*"))


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_what_is_stored_of_the_next_version_is_what_was_edited(
    tmp_path: Path, share: float
) -> None:
    files = first_version()
    after = edited(files, share)
    # As if each were sent alone: no packer has an easier time than this.
    changed = sum(len(stored_form(after[name])) for name in after if after[name] != files[name])
    added = {}
    for way in ("known", "unknown"):
        store = a_store(tmp_path / way)
        first = flattened(store, files, tmp_path)
        before = chunk_bytes(tmp_path / way)
        second = flattened(store, after, tmp_path, *([first] if way == "known" else []))
        added[way] = chunk_bytes(tmp_path / way) - before
        extract(store, second, tmp_path / f"{way}-root")
    assert added["known"] <= 1.5 * changed
    assert added["unknown"] > 4 * changed  # which is why
    assert read_tree(tmp_path / "known-root") == read_tree(tmp_path / "unknown-root")


def test_versions_that_follow_one_another_are_each_what_they_are(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    files = first_version()
    trees: list[Digest] = []
    for version in range(4):
        files = edited(files, 0.2) | {f"lib/new{version}": b"new in %d" % version}
        trees.insert(0, flattened(store, files, tmp_path, *trees))
        root = tmp_path / f"root-{version}"
        extract(store, trees[0], root)
        found = {name: content for name, content in read_tree(root).items() if content[0] == "file"}
        assert found == {name: ("file", (data, False)) for name, data in files.items()}


def test_packs_that_are_gone_hurt_or_of_an_image_that_is_gone_are_not_used(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    files = first_version()
    first = flattened(store, files, tmp_path)
    gone, hurt, *_ = (Digest(each.digest.hex()) for each in decode_tree(store.blob(first)).packs)
    chunk_file(tmp_path / "store", gone).unlink()
    chunk_file(tmp_path / "store", hurt).write_bytes(b"something else")
    after = edited(files, 0.02)
    second = flattened(store, after, tmp_path, Digest("0" * 64), first)
    names = {Digest(each.digest.hex()) for each in decode_tree(store.blob(second)).packs}
    assert store.missing(sorted(names)) == []
    assert all(store.chunk(name).stored for name in names)
    extract(store, second, tmp_path / "root")
    assert (tmp_path / "root/lib/d0/f0.py").read_bytes() == after["lib/d0/f0.py"]
