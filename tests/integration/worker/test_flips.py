"""Bits that flip: in the store, on the way, on the worker's disk. Each is found before a reader sees it.

`just flips 10000` makes so many; the seed of a run is printed when it fails.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame
from glowplug_contracts.trees import FlatTree, encode_tree
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.store import Store
from glowplug_worker.images.erofs import place_objects
from glowplug_worker.images.flat_objects import read_pack, read_piece
from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.mounts.lazy import LazyMounts
from glowplug_worker.images.mounts.probe import MountsWanted

from tests.support import erofs, lazy_trees
from tests.support.builders_images import chunk_file, open_imagecache, open_worker_images

pytestmark = pytest.mark.skipif(
    not (erofs.kernel_mounts_erofs() and lazy_trees.kernel_tells_of_reads()),
    reason="takes root, Linux 6.14, and a file system that tells of reads",
)
FLIPS = int(os.environ.get("GLOWPLUG_FLIPS", "150"))
SEED = int(os.environ.get("GLOWPLUG_FLIPS_SEED", "1"))
FILES = 96
FILE_BYTES = 40_000


class FlippingStore(Store):
    """A store whose answers are noted, and some of them changed on their way, once."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        super().__init__(root, free_bytes_min=0, blob_bytes_max=1 << 30)
        self.asked: list[Digest] = []
        self.on_the_way: set[Digest] = set()
        self._chance = chance

    def chunk(self, digest: Digest) -> ChunkFrame:
        self.asked.append(digest)
        frame = super().chunk(digest)
        if digest in self.on_the_way and frame.stored is not None:
            self.on_the_way.discard(digest)
            return ChunkFrame(digest, frame.raw_size, flipped(frame.stored, self._chance))
        return frame


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Return the data with one bit changed, not near its ends: there are bits of a frame that mean nothing."""
    changed = bytearray(data)
    changed[chance.randrange(len(data) // 4, len(data) * 3 // 4)] ^= 1 << chance.randrange(8)
    return bytes(changed)


class Told(msgspec.Struct):
    """What a run has seen."""

    flips: int = 0
    found: int = 0
    served: int = 0


@pytest.mark.parametrize("wanted", ["fanotify", "fuse"])
async def test_no_flipped_bit_reaches_a_reader(wanted: MountsWanted, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} {wanted}")
    root = tmp_path / "source"
    root.mkdir()
    for number in range(FILES):
        (root / f"large{number}").write_bytes(chance.randbytes(FILE_BYTES))
        (root / f"small{number}").write_bytes(chance.randbytes(chance.randrange(1, 5000)))
    store = FlippingStore(tmp_path / "store", chance)
    tree = stock_tree(root, store)
    digest = store.add_blob(encode_tree(tree))
    told = Told()
    async with open_imagecache(store) as url:
        async with open_worker_images(tmp_path / "worker", url, wanted) as images:
            mounts = images.mounts
            assert isinstance(mounts, LazyMounts)
            await mounts.hold(digest, "one")
            await lazy_trees.fill(mounts, digest, tree)
        while told.flips < FLIPS // 2:
            await _round(wanted, tmp_path, url, store, tree, digest, chance, told)
    assert (told.found, told.served) == (told.flips, 0), (SEED, told)


def stock_tree(root: Path, store: Store) -> FlatTree:
    """Put the objects of a tree into a store."""
    flattened = flatten(root)
    tree = flattened.tree
    objects = [read_pack(root, flattened, number) for number in range(len(tree.packs))]
    objects += [read_piece(root, flattened, number) for number in range(len(tree.pieces))]
    store.put_chunks([frame_of(each) for each in objects])
    return tree


async def _round(
    wanted: MountsWanted,
    folder: Path,
    url: str,
    store: FlippingStore,
    tree: FlatTree,
    digest: Digest,
    chance: random.Random,
    told: Told,
) -> None:
    """Flip what was fetched, some of it in the store or on its next way, too; then read everything."""
    kept = folder / "worker" / "lazy" / "kept" / digest
    for name, objects in (("packs", tree.packs), ("pieces", tree.pieces)):
        places = place_objects(objects)
        with (kept / name).open("r+b") as device:
            for number, each in enumerate(objects):
                at = places.offset_of(number) + chance.randrange(each.size)
                byte = os.pread(device.fileno(), 1, at)[0]
                os.pwrite(device.fileno(), bytes([byte ^ 1 << chance.randrange(8)]), at)
    pieces = [Digest(each.digest.hex()) for each in tree.pieces]
    chance.shuffle(pieces)
    third = len(pieces) // 3
    in_store, store.on_the_way = set(pieces[:third]), set(pieces[third : 2 * third])
    on_the_way = set(store.on_the_way)
    whole = {each: chunk_file(store.root, each).read_bytes() for each in in_store}
    for each, data in whole.items():
        chunk_file(store.root, each).write_bytes(flipped(data, chance))
    store.asked.clear()
    async with open_worker_images(folder / "worker", url, wanted) as images:
        held = await images.mounts.hold(digest, "one")
        bad = await asyncio.to_thread(_read_all, held.root, folder / "source")
    everything = {Digest(each.digest.hex()) for each in (*tree.packs, *tree.pieces)}
    told.flips += len(everything) + len(in_store) + len(on_the_way)
    told.found += len(everything & set(store.asked))
    told.found += sum(store.asked.count(each) > 1 for each in on_the_way)
    told.found += sum(not chunk_file(store.root, each).exists() for each in in_store)
    told.served += bad["served"]
    # Nothing else has them, so they are errors; everything else was had in the end.
    assert bad == {"served": 0, "errors": len(in_store)}, (SEED, told)
    for each, data in whole.items():
        chunk_file(store.root, each).write_bytes(data)


def _read_all(root: Path, source: Path) -> dict[str, int]:
    found = {"served": 0, "errors": 0}
    for path in sorted(source.iterdir()):
        try:
            found["served"] += (root / path.name).read_bytes() != path.read_bytes()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found["errors"] += 1
    return found
