"""T7: a lazy start of a multi-GB image that reads at most 6 % of it, against the same start, local and warm.

Profiled: what an earlier start on another node read is fetched first. Not profiled: nothing is known. The warm
side is the same program on what umoci unpacks of the image, on this disk, read before. See `lazy_images.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from benchmarks import lazy_images
from benchmarks.harness import ROUNDS, Side, a_directory, apart, show, timed, verdict
from images.workshop import Workshop

PROMISES = {"profiled": 1.2, "not profiled": 1.8}
WARM = "local and warm"


def main() -> int:
    parser = argparse.ArgumentParser(description="T7: lazy starts of a large image")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--image", default="large")
    options = parser.parse_args()
    if reason := lazy_images.why_not(options.image):
        return verdict("a lazy start", None, {"why": reason})
    directory = a_directory("lazy-starts")
    with apart() as how, lazy_images.served(directory / "store", options.image) as image:
        print(how)
        return asyncio.run(measure(directory, image, options))


async def measure(directory: Path, image: lazy_images.Served, options: argparse.Namespace) -> int:
    choice = lazy_images.lazy_choice(directory)
    if choice.method == "extraction":
        return verdict("a lazy start", None, {"why": choice.reason})
    native = Workshop(lazy_images.WORKSHOP).unpack(options.image)
    await asyncio.to_thread(lazy_images.run, native)
    profile, nothing = lazy_images.Lists(), lazy_images.Lists()
    sides = {name: Side(name) for name in ("profiled", "not profiled", WARM)}
    held: dict[str, Side] = {}

    async def lazily(name: str, lists: lazy_images.Lists, *, note: bool = False) -> float:
        node = directory / f"node-{name.replace(' ', '-')}"
        async with lazy_images.a_node(node, image, choice, lists) as mounts:
            took = await lazy_images.start(mounts, image, note)
        shutil.rmtree(node, ignore_errors=True)
        held.setdefault(name, Side(f"{name}, until it is held")).samples.append(took.held)
        return took.whole

    await lazily("recorded", profile, note=True)
    sizes = {each.digest.hex(): each.size for each in (*image.tree.packs, *image.tree.pieces)}
    read = sum(sizes[digest] for digest in profile.known)
    for _ in range(options.rounds):
        sides["profiled"].samples.append(await lazily("profiled", profile))
        sides["not profiled"].samples.append(await lazily("not profiled", nothing))
        nothing.known.clear()
        warm = await asyncio.to_thread(timed, lambda: lazy_images.run(native))
        sides[WARM].samples.append(warm)
    print(
        f"{choice.method}; {image.bytes >> 20:,} MiB, of which a start reads {read >> 20:,} "
        f"({read / image.bytes:.1%}) in {len(profile.known)} objects"
    )
    show({**sides, **{side.name: side for name, side in held.items() if name in sides}}, WARM)
    failed = 0
    for name, promise in PROMISES.items():
        ratio = sides[name].p50 / sides[WARM].p50
        failed |= verdict(
            f"a lazy start, {name}, takes at most {promise} times a local, warm one",
            ratio <= promise,
            {"ratio": round(ratio, 2), "p50_ms": round(sides[name].p50 * 1000)},
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
