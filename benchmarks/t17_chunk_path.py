"""T17: chunks from the cache service to a worker's disk, verified, against decoding them alone, in the same run.

The content is this environment's own packages, flattened as an image is. Ours is what fills an image: batches over
HTTP from the service in a process of its own, decoded, their BLAKE3 compared, written to a file. The peers
decode the same frames in memory, on one thread and on two, and write nothing. The control, which does not hold, is
a service whose chunks have no seals, so that it decodes and hashes them itself before it sends them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop
import zstandard
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import ChunkFrame, group_by_size
from glowplug_imagecache.objects import SEAL_BYTES
from glowplug_worker.images import fetch
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.flat_objects import read_pack, read_piece
from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.objects import frame_of, raw_form

from benchmarks.harness import (
    a_directory,
    a_process,
    alternate,
    apart,
    arguments,
    show,
    timed,
    verdict,
)
from benchmarks.peers.chunk_store import TOKEN

PROMISE = 0.6
BYTES = 256 << 20
QUICK_BYTES = 32 << 20
OURS = "fetch, verify, decode, write"
CONTROL = "the same, chunks without seals"
ALONE = "decode alone, one thread"
PEER = "decode alone, two threads"


def main() -> int:
    options = arguments(__doc__)
    directory = a_directory("chunks")
    frames = some_frames(QUICK_BYTES if options.quick else BYTES)
    sizes = {frame.digest: frame.raw_size for frame in frames}
    total = sum(sizes.values())
    stored = sum(len(frame.stored or b"") for frame in frames)
    with (
        apart() as how,
        a_service(directory / "sealed") as url,
        a_service(directory / "not") as other,
    ):
        uvloop.run(push(url, frames))
        uvloop.run(push(other, frames))
        take_seals_away(directory / "not")
        target = directory / "filled"

        def through(service: str) -> list[float]:
            target.unlink(missing_ok=True)
            return [timed(lambda: uvloop.run(fill(service, sizes, target)))]

        sides = alternate(
            {
                OURS: lambda: through(url),
                CONTROL: lambda: through(other),
                ALONE: lambda: [timed(lambda: decode_all(frames, 1))],
                PEER: lambda: [timed(lambda: decode_all(frames, 2))],
            },
            options.rounds,
        )
    print(how)
    print(f"{len(frames)} objects, {total >> 20} MiB, stored in {stored >> 20} MiB")
    show(sides, ALONE)
    for side in sides.values():
        print(f"{side.name:38}{total / side.p50 / 1e6:>9,.0f} MB/s")
    ratio = sides[ALONE].p50 / sides[OURS].p50
    return verdict(
        f"fetched, verified, decoded and written at {PROMISE} times the rate of decoding alone, or faster",
        ratio >= PROMISE,
        {
            "ratio": round(ratio, 2),
            "ratio_threads": round(sides[PEER].p50 / sides[OURS].p50, 2),
            "control": round(sides[ALONE].p50 / sides[CONTROL].p50, 2),
            "mb_s": round(total / sides[OURS].p50 / 1e6),
            "decode_mb_s": round(total / sides[ALONE].p50 / 1e6),
        },
    )


@contextlib.contextmanager
def a_service(directory: Path) -> Iterator[str]:
    with a_process(sys.executable, "-m", "benchmarks.peers.chunk_store", str(directory)) as served:
        yield served.first_line  # type: ignore[attr-defined]


def take_seals_away(directory: Path) -> None:
    for chunk in (directory / "chunks").glob("*/*"):
        os.truncate(chunk, chunk.stat().st_size - SEAL_BYTES)


def some_frames(wanted: int) -> list[ChunkFrame]:
    """Return objects of this environment's packages, as an image of them has them."""
    root = Path(sysconfig.get_path("purelib"))
    flat = flatten(root)
    frames: list[ChunkFrame] = []
    room = wanted
    # By turns, since an image has both: packs of small files, pieces of large ones.
    packs = ((read_pack, number) for number in range(len(flat.tree.packs)))
    pieces = ((read_piece, number) for number in range(len(flat.tree.pieces)))
    while room > 0:
        turn = [next(each, None) for each in (packs, pieces)]
        if not any(turn):
            break
        for reader, number in filter(None, turn):
            frames.append(frame_of(reader(root, flat, number)))
            room -= frames[-1].raw_size
    return list({frame.digest: frame for frame in frames}.values())


async def push(url: str, frames: Sequence[ChunkFrame]) -> None:
    by_name = {frame.digest: frame for frame in frames}
    async with open_session(TOKEN) as session:
        client = StoreClient(session, lambda: url)
        for batch in group_by_size({frame.digest: frame.raw_size for frame in frames}):
            await client.put_chunks([by_name[digest] for digest in batch])


async def fill(url: str, sizes: Mapping[Digest, int], target: Path) -> None:
    """Fill a device's file as a worker does: each object in its place."""
    places, end = {}, 0
    for digest, size in sizes.items():
        places[digest] = end
        end += size + -size % 4096
    file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def write(some: Sequence[ChunkFrame]) -> None:
        for frame in some:
            data = raw_form(frame.digest, frame.stored or b"")
            os.pwrite(file, data, places[frame.digest])

    try:
        async with open_session(TOKEN) as session:
            await fetch.fetch_chunks(StoreClient(session, lambda: url), sizes, write)
    finally:
        os.close(file)


def decode_all(frames: Sequence[ChunkFrame], threads: int) -> None:
    def one(share: Sequence[ChunkFrame]) -> None:
        opened = zstandard.ZstdDecompressor()
        for frame in share:
            opened.decompress(frame.stored or b"")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, [frames[number::threads] for number in range(threads)]))


if __name__ == "__main__":
    sys.exit(main())
