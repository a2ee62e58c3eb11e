"""T8: a lazy start of a multi-GB image on a node that has nothing, against containerd's eager pull, unpack and run.

containerd runs with directories and a socket of its own, pulls from a registry on this host (Debian's docker-registry),
unpacks into its overlay snapshots, and the same program is started on them in the same sandbox. Ours is not
profiled, and profiled. The registry and the cache service are equally near. See `lazy_images.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import lazy_images
from benchmarks.harness import Side, a_directory, apart, show, timed, verdict
from images.workshop import Workshop
from tests.support.real_registry import open_registry

PROMISE = 30
EAGER = "containerd: pull, unpack, run"
LAZY, PROFILED = "lazy", "lazy, profiled"
CONFIG = """
version = 2
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper",
]
"""
READY_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description="T8: against an eager pull")
    parser.add_argument(
        "--rounds", type=int, default=3, help="an eager pull takes a minute and more"
    )
    parser.add_argument("--image", default="large")
    options = parser.parse_args()
    reason = lazy_images.why_not(options.image)
    lacking = [each for each in ("containerd", "ctr") if shutil.which(each) is None]
    if lacking:
        reason = f"not installed: {', '.join(lacking)}"
    if reason:
        return verdict("a lazy start against an eager pull", None, {"why": reason})
    directory = a_directory("eager")
    shop = Workshop(lazy_images.WORKSHOP)
    with (
        apart() as how,
        open_registry(directory / "registry") as host,
        lazy_images.served(directory / "store", options.image) as image,
    ):
        print(how)
        name = shop.push(options.image, host)
        return asyncio.run(measure(directory, image, name, options.rounds))


async def measure(directory: Path, image: lazy_images.Served, name: str, rounds: int) -> int:
    choice = lazy_images.lazy_choice(directory)
    if choice.method == "extraction":
        return verdict("a lazy start against an eager pull", None, {"why": choice.reason})
    sides = {each: Side(each) for each in (LAZY, PROFILED, EAGER)}
    profile, nothing = lazy_images.Lists(), lazy_images.Lists()

    async def lazily(lists: lazy_images.Lists, *, note: bool = False) -> float:
        async with lazy_images.a_node(directory / "node", image, choice, lists) as mounts:
            took = await lazy_images.start(mounts, image, note)
        shutil.rmtree(directory / "node", ignore_errors=True)
        return took.whole

    await lazily(profile, note=True)
    for _ in range(rounds):
        sides[LAZY].samples.append(await lazily(nothing))
        nothing.known.clear()
        sides[PROFILED].samples.append(await lazily(profile))
        with containerd(directory / "containerd") as socket:
            took = await asyncio.to_thread(
                timed, lambda socket=socket: eagerly(socket, name, directory)
            )
            sides[EAGER].samples.append(took)
            await asyncio.to_thread(subprocess.run, ["umount", directory / "mounted"], check=True)
    print(f"{choice.method}; {image.bytes >> 20:,} MiB")
    show(sides, EAGER)
    faster = {each: sides[EAGER].p50 / sides[each].p50 for each in (LAZY, PROFILED)}
    return verdict(
        f"a lazy start is at least {PROMISE} times as fast as an eager pull, unpack and run",
        faster[LAZY] >= PROMISE,
        {"times": round(faster[LAZY], 1), "profiled": round(faster[PROFILED], 1)},
    )


def eagerly(socket: Path, name: str, directory: Path) -> None:
    """Pull, unpack and run with containerd."""
    ask = ("ctr", "--address", str(socket))
    mounted = directory / "mounted"
    mounted.mkdir(exist_ok=True)
    for command in (
        (*ask, "images", "pull", "--plain-http", name),
        (*ask, "images", "mount", name, str(mounted)),
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-1000:]
    lazy_images.run(mounted)


@contextlib.contextmanager
def containerd(directory: Path) -> Iterator[Path]:
    """Run a containerd that shares nothing with another on this machine."""
    directory.mkdir()
    (directory / "config.toml").write_text(CONFIG)
    socket = directory / "socket"
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "containerd", "--config", str(directory / "config.toml"), "--root", str(directory / "root"),
                "--state", str(directory / "state"), "--address", str(socket),
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + READY_S
            while subprocess.run(
                ["ctr", "--address", str(socket), "version"], capture_output=True
            ).returncode:
                assert time.monotonic() < deadline, (directory / "log").read_text()[-1000:]
                time.sleep(0.05)
            yield socket
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
