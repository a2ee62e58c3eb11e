"""Any layers, flattened and extracted again, are the files that the layers' tree shows."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from tarfile import DIRTYPE, LNKTYPE, SYMTYPE, TarInfo

from glowplug_contracts.ids import Digest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.layers.reading import read_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders_images import a_store, extract
from tests.support.layers import tar_of
from tests.support.real_registry import (
    Hashes,
    differences,
    facts_of_folder,
    facts_of_tree,
)

KIB = 1024
# Around what makes a file small, and what makes it one piece; zeros in between.
SIZES = (0, 1, 4096, 4097, 32 * KIB, 32 * KIB + 1, KIB * KIB, KIB * KIB + 1, 2 * KIB * KIB + 5)
NAMES = st.sampled_from(["a", "b", "c", "a/b", "a/c", "a/b/c", "d/e"])


KINDS = st.sampled_from(["file", "file", "dir", "link", "same", "gone"])
FILLS = st.sampled_from([b"\0", b"x", b"\0" * 4096 + b"y"])
MODES = st.sampled_from([0o644, 0o755, 0o4755, 0o700])
# Only root looks into every directory, and this looks into what it has extracted.
LOOKED_INTO = 0 if os.geteuid() == 0 else 0o700
MEMBERS = st.lists(
    st.tuples(NAMES, KINDS, MODES, FILLS, st.sampled_from(SIZES)),
    max_size=6,
    unique_by=lambda member: member[0],
)
Drawn = list[tuple[str, str, int, bytes, int]]


def a_layer(drawn: Drawn) -> bytes:
    """Return a tar of what can stand in one layer together."""
    members: list[tuple[TarInfo, bytes]] = []
    kinds: dict[str, str] = {}
    for name, kind, mode, fill, size in drawn:
        above = any(name.startswith(f"{other}/") and what != "dir" for other, what in kinds.items())
        below = any(other.startswith(f"{name}/") for other in kinds)
        files = [other for other, what in kinds.items() if what == "file"]
        if above or (below and kind != "dir") or (kind == "same" and not files):
            continue
        kinds[name] = kind
        info, data = TarInfo(name), b""
        info.mode, info.mtime = mode, size
        if kind == "file":
            data = (fill * (size // len(fill) + 1))[:size]
        elif kind == "dir":
            info.type = DIRTYPE
            info.mode = mode | LOOKED_INTO
        elif kind == "link":
            info.type, info.linkname = SYMTYPE, "nowhere"
        elif kind == "same":
            info.type, info.linkname = LNKTYPE, files[0]
        else:
            folder, _, last = name.rpartition("/")
            info.name = f"{folder}/.wh.{last}".lstrip("/")
        members.append((info, data))
    return tar_of(members)


def written(folder: Path, drawn: list[Drawn]) -> list[tuple[Path, str]]:
    """Return the files and digests of the layers that are drawn."""
    pairs = []
    for number, data in enumerate(map(a_layer, drawn)):
        path = folder / f"layer-{number}"
        path.write_bytes(data)
        pairs.append((path, "sha256:" + hashlib.sha256(data).hexdigest()))
    return pairs


@settings(max_examples=30, deadline=None)
@given(st.lists(MEMBERS, min_size=1, max_size=3))
def test_layers_flattened_and_extracted_are_what_their_tree_shows(drawn: list[Drawn]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = written(folder, drawn)
        hashes = Hashes()
        expected = facts_of_tree(read_layers(pairs, hashes), hashes)
        store = a_store(folder / "store")
        flat = flatten_layers(store, pairs)
        # What is stored is readable by whoever checks, and names nothing that is not there.
        tree = decode_tree(store.blob(flat.digest))
        chunks = {path.name for path in (folder / "store/chunks").glob("*/*")}
        assert chunks == {each.digest.hex() for each in (*tree.packs, *tree.pieces)}
        extract(store, flat.digest, folder / "root")
        found = facts_of_folder(folder / "root")
    assert differences(found, expected, without=("owner",)) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(MEMBERS, min_size=1, max_size=2), min_size=2, max_size=3))
def test_an_image_that_uses_packs_of_others_again_is_what_its_layers_show(
    versions: list[list[Drawn]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = a_store(folder / "store")
        trees: list[Digest] = []
        for version in versions:
            pairs = written(folder, version)
            hashes = Hashes()
            expected = facts_of_tree(read_layers(pairs, hashes), hashes)
            trees.insert(0, flatten_layers(store, pairs, like=trees).digest)
        extract(store, trees[0], folder / "root")
        found = facts_of_folder(folder / "root")
    assert differences(found, expected, without=("owner",)) == []
