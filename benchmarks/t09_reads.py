"""T9: a filled lazy mount's stat, small files, sequential reads, imports: ≥ 0.95 times a native copy's speed.

The tree is this interpreter's standard library and one large file, from a directory store; the copy lies on
the file system that has the mount's devices. Both are warm, and the large file of both was read from the disk: pages
that were just written lie in memory in larger pieces than any that were read, and are faster for it (printed as well).
Also printed: the first reads, while content comes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from glowplug_worker.images.mounts.probe import Choice, try_all

from benchmarks.harness import a_directory, alternate, arguments, show, timed, verdict
from tests.support import lazy_trees

PROMISE = 0.95
LARGE_BYTES = 512 * 1024 * 1024
BLOCK_BYTES = 1024 * 1024
FILL_S = 120.0
LOOK_S = 0.05
# What a small service imports of the standard library.
IMPORTS = "asyncio, email.message, http.client, json, sqlite3, unittest.mock, xml.dom.minidom"


def main() -> int:
    options = arguments(__doc__)
    directory = a_directory("reads")
    choice = try_all(directory)
    if choice.method == "extraction":
        return verdict("reads of a filled mount", None, {"why": choice.reason})
    return asyncio.run(measure(directory, choice, options.rounds, quick=options.quick))


async def measure(directory: Path, choice: Choice, rounds: int, *, quick: bool) -> int:
    native = make_tree(directory / "native", LARGE_BYTES // (8 if quick else 1))
    stored = lazy_trees.store_tree(native, directory / "store")
    async with lazy_trees.lazy_mounts(
        directory / "lazy", stored.store, method=choice.method
    ) as mounts:
        held = await mounts.hold(stored.digest, "benchmark")
        for name, work in WORKS.items():
            first = await asyncio.to_thread(timed, lambda work=work: work(held.root))
            print(f"{name}, first time: {first:.3f} s")
        deadline = time.monotonic() + FILL_S
        while not mounts.filled(stored.digest):
            assert time.monotonic() < deadline, "it is not filled"
            await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(
            compare, "sequential, the copy as it was written", held.root, native, rounds
        )
        for root in (held.root, native):
            forget(root / "large")
        ratios = {
            name: await asyncio.to_thread(compare, name, held.root, native, rounds)
            for name in WORKS
        }
        await mounts.release(stored.digest, "benchmark")
    return verdict(
        f"reads of a filled mount ({choice.method}) run at {PROMISE} times a native copy's speed",
        min(ratios.values()) >= PROMISE,
        {name: round(ratio, 3) for name, ratio in ratios.items()},
    )


def compare(name: str, mounted: Path, native: Path, rounds: int) -> float:
    """Print both sides of one kind of reading; return the mount's speed in terms of the copy's."""
    work = WORKS[name.split(",", maxsplit=1)[0]]
    work(mounted)
    work(native)
    sides = alternate(
        {
            "mounted": lambda: [timed(lambda: work(mounted))],
            "native": lambda: [timed(lambda: work(native))],
        },
        rounds,
    )
    print(f"\n{name}")
    show(sides, "native")
    return sides["native"].p50 / sides["mounted"].p50


def make_tree(root: Path, large_bytes: int) -> Path:
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = shutil.ignore_patterns("site-packages", "test*", "config-*", "__pycache__")
    shutil.copytree(library, root / "lib", symlinks=True, ignore=skipped)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(root / "lib")], check=False)
    with (root / "large").open("wb") as file:
        for _ in range(large_bytes // BLOCK_BYTES):
            file.write(os.urandom(BLOCK_BYTES))
    return root


def forget(path: Path) -> None:
    """Have a file's pages leave memory; they were written to the disk before."""
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stat_all(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - the cost of pathlib is not the question


def read_small(root: Path) -> None:
    for path in sorted((root / "lib").rglob("*.py")):
        path.read_bytes()


def read_large(root: Path) -> None:
    with (root / "large").open("rb", buffering=0) as file:
        while file.read(BLOCK_BYTES):
            pass


def import_some(root: Path) -> None:
    code = f"import sys; sys.path[:] = [{str(root / 'lib')!r}, {str(root / 'lib/lib-dynload')!r}]; import {IMPORTS}"
    subprocess.run([sys._base_executable, "-I", "-S", "-c", code], check=True)


WORKS: dict[str, Callable[[Path], None]] = {
    "stat": stat_all,
    "small files": read_small,
    "sequential": read_large,
    "imports": import_some,
}


if __name__ == "__main__":
    sys.exit(main())
