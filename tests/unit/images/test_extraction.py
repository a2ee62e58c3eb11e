"""Extracting trees whole: verified, atomic, and honest about what an ordinary user can't keep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from glowplug_contracts.errors import ContractError, NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame
from glowplug_contracts.trees import encode_tree
from glowplug_worker.images import extract
from glowplug_worker.images.extraction import Extraction
from glowplug_worker.images.flat_objects import Flattened, read_pack, read_piece
from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.objects import digest_of, frame_of

from tests.support.builders_images import read_tree, write_tree
from tests.support.clock import FakeClock


class OneTree:
    """A store with the objects of one tree. `lies`: objects whose bytes are others."""

    def __init__(self, root: Path) -> None:
        flattened: Flattened = flatten(root)
        self.tree = flattened.tree
        self.manifest = encode_tree(flattened.tree)
        packs = [read_pack(root, flattened, n) for n in range(len(self.tree.packs))]
        pieces = [read_piece(root, flattened, n) for n in range(len(self.tree.pieces))]
        self.frames = {frame.digest: frame for frame in map(frame_of, (*packs, *pieces))}
        self.asked = 0
        self.fails: Exception | None = None

    @property
    def digest(self) -> Digest:
        return digest_of(self.manifest)

    async def get(self, digest: Digest) -> bytes:
        if digest != self.digest:
            raise NotFoundError("image.not_found", "imagecache has none")
        return self.manifest

    async def get_chunks(self, digests: Sequence[Digest]) -> list[ChunkFrame]:
        self.asked += len(digests)
        if self.fails is not None:
            raise self.fails
        return [self.frames[digest] for digest in digests]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    files = {"etc/a": b"a", "etc/b": b"a", "to": "etc", "big": os.urandom(1_500_000), "dir": None}
    root = write_tree(tmp_path / "source", files)
    os.link(root / "etc/a", root / "again")
    (root / "dir").chmod(0o500)
    (root / "etc/b").chmod(0o4711)
    return root


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as tasks:
        yield tasks


def opened(tmp_path: Path, store: OneTree, tasks: asyncio.TaskGroup) -> Extraction:
    extraction = Extraction(tmp_path / "trees", store, tasks, FakeClock())  # type: ignore[arg-type]
    extraction.load()
    return extraction


async def test_a_tree_is_extracted_once_for_all_who_hold_it(
    source: Path, tmp_path: Path, tasks: asyncio.TaskGroup
) -> None:
    store = OneTree(source)
    extraction = opened(tmp_path, store, tasks)
    held = await asyncio.gather(*(extraction.hold(store.digest, f"ctr_{n}") for n in range(5)))
    (root,) = {each.root for each in held}
    assert read_tree(root) == read_tree(source)
    assert (root / "again").stat().st_ino == (root / "etc/a").stat().st_ino
    assert (root / "etc/b").stat().st_mode & 0o7777 == 0o4711
    assert (root / "dir").stat().st_mtime_ns == (source / "dir").stat().st_mtime_ns
    assert store.asked == len(store.frames)
    # Set-uid programs of strangers are in there: the way to them is the worker's alone.
    assert (tmp_path / "trees").stat().st_mode & 0o077 == 0
    assert held[0].method == "extraction"


async def test_bytes_that_are_not_what_they_should_be_leave_nothing(
    source: Path, tmp_path: Path, tasks: asyncio.TaskGroup
) -> None:
    store = OneTree(source)
    good = dict(store.frames)
    digest = next(iter(good))
    store.frames[digest] = ChunkFrame(digest, 1, frame_of(b"flipped").stored)
    extraction = opened(tmp_path, store, tasks)
    with pytest.raises(ContractError) as caught:
        await extraction.hold(store.digest, "ctr_1")
    assert caught.value.code == "image.corrupt"
    assert list((tmp_path / "trees").iterdir()) == []
    store.frames = good
    assert read_tree((await extraction.hold(store.digest, "ctr_1")).root) == read_tree(source)


@pytest.mark.parametrize(
    "fails", [UnavailableError("platform.unavailable", "gone"), OSError(28, "full")]
)
async def test_what_breaks_off_is_done_again_from_the_start(
    source: Path, tmp_path: Path, tasks: asyncio.TaskGroup, fails: Exception
) -> None:
    store = OneTree(source)
    store.fails = fails
    extraction = opened(tmp_path, store, tasks)
    with pytest.raises(UnavailableError):
        await extraction.hold(store.digest, "ctr_1")
    assert list((tmp_path / "trees").iterdir()) == []
    store.fails = None
    assert read_tree((await extraction.hold(store.digest, "ctr_1")).root) == read_tree(source)


async def test_what_a_killed_worker_left_half_made_goes_at_the_next_start(
    source: Path, tmp_path: Path, tasks: asyncio.TaskGroup
) -> None:
    store = OneTree(source)
    write_tree(tmp_path / "trees/new-abc/layer", {"half": b"made"})
    write_tree(tmp_path / f"trees/{store.digest}/layer", {"not": b"on the disk yet"})
    extraction = opened(tmp_path, store, tasks)
    assert list((tmp_path / "trees").iterdir()) == []
    assert read_tree((await extraction.hold(store.digest, "ctr_1")).root) == read_tree(source)


async def test_a_tree_that_nobody_holds_leaves_when_its_room_is_wanted(
    source: Path, tmp_path: Path, tasks: asyncio.TaskGroup
) -> None:
    store, clock = OneTree(source), FakeClock()
    extraction = Extraction(tmp_path / "trees", store, tasks, clock, bytes_max=1)  # type: ignore[arg-type]
    extraction.load()
    held = await extraction.hold(store.digest, "ctr_1")
    await extraction.hold(store.digest, "ctr_2")
    await extraction.release(store.digest, "ctr_1")
    await extraction.tend()
    assert read_tree(held.root) == read_tree(source)
    await extraction.release(store.digest, "ctr_2")
    await extraction.tend()
    assert not held.root.exists()
    assert read_tree((await extraction.hold(store.digest, "ctr_3")).root) == read_tree(source)


async def test_an_ordinary_user_is_told_that_owners_are_not_kept(
    source: Path, tmp_path: Path, tasks: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OneTree(source)
    somebody = os.geteuid() + 1000
    monkeypatch.setattr(extract.os, "geteuid", lambda: somebody)
    extraction = opened(tmp_path, store, tasks)
    assert "only root can give files away" in extraction.reason
    tree_root = tmp_path / "by-hand"
    extractor = extract.TreeExtractor(tree_root, store.tree)
    extractor.write(list(store.frames.values()))
    assert extractor.finish()["owner"] == len(store.tree.entries) - 1  # a hard link has none
    extractor.close()
    assert read_tree(tree_root) == read_tree(source)
