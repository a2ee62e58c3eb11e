"""What T7 and T8 share: a large image of the campaign in a cache service, started on a node that has nothing of it.

The image is one of `just images` ("large" by default: torch with CUDA's libraries), as its workshop has it. A start is
what a worker does about the image (hold its tree) and then a sandboxed program on the tree, by bubblewrap, which is
the same for all sides; the platform's own part of a start is T5's business. A node is a worker's mounts in a
directory of their own, which have mounted another, tiny image before; between rounds it is made anew, so that nothing
of this one is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from glowplug_contracts.ids import Digest
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import FlatTree
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.store import Store
from glowplug_runtime.clock import Clock
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.mounts.lazy import LazyMounts, Terms, open_lazy_mounts
from glowplug_worker.images.mounts.probe import Choice, choose
from glowplug_worker.images.mounts.sources import ImagecacheSource
from glowplug_worker.runtime.bwrap import find_binary

from benchmarks.harness import a_process
from benchmarks.peers.chunk_store import TOKEN
from images.workshop import Workshop
from tests.support.layers import tar_of

WORKSHOP = Path("/var/tmp/glowplug-images")
# Packages of the image; they read a few per cent of it.
PROGRAM = "import sympy, networkx, jinja2, fsspec, filelock; print('ok')"
READ_SHARE = 0.06


class Served(msgspec.Struct, frozen=True):
    """An image in a cache service that runs. Attributes: tiny: another one's tree."""

    url: str
    digest: Digest
    tree: FlatTree
    tiny: Digest

    @property
    def bytes(self) -> int:
        """Return what the image's content comes to."""
        return sum(each.size for each in (*self.tree.packs, *self.tree.pieces))


class Took(NamedTuple):
    """Seconds of a start: as a whole, and until the tree was held."""

    whole: float
    held: float


class Lists:
    """Lists of what starts read, kept here: one request less than imagecache's, of some 1 ms."""

    def __init__(self) -> None:
        self.known: list[Digest] = []

    async def get(self, _: Digest) -> list[Digest]:
        return list(self.known)

    async def put(self, _: Digest, objects: Sequence[Digest]) -> None:
        self.known = list(objects)


def why_not(name: str) -> str:
    """Return why it can't be measured here, or ""."""
    if not Workshop(WORKSHOP).has(name):
        return f"there is no such image: `just images --images {name}` makes it"
    if find_binary() is None:
        return "bubblewrap is not installed"
    return ""


@contextlib.contextmanager
def served(directory: Path, name: str) -> Iterator[Served]:
    """Put an image into a store, and serve it."""
    store = Store(directory, free_bytes_min=0, blob_bytes_max=1 << 32)
    flat = flatten_layers(store, layers_of(Workshop(WORKSHOP).oci(name)))
    tiny = tar_of([(tarfile.TarInfo("file"), b"of another image")])
    (directory / "tiny").write_bytes(tiny)
    other = flatten_layers(
        store, [(directory / "tiny", f"sha256:{hashlib.sha256(tiny).hexdigest()}")]
    )
    with a_process(sys.executable, "-m", "benchmarks.peers.chunk_store", str(directory)) as process:
        url: str = process.first_line  # type: ignore[attr-defined]
        yield Served(url, flat.digest, decode_tree(store.blob(flat.digest)), other.digest)


def layers_of(layout: Path) -> list[tuple[Path, str]]:
    """Return the files of an OCI layout's layers, with the digests of their tars."""

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    def document(digest: str) -> dict[str, Any]:
        return msgspec.json.decode(blob(digest).read_bytes())

    index = msgspec.json.decode((layout / "index.json").read_bytes())
    manifest = document(index["manifests"][0]["digest"])
    diff_ids = document(manifest["config"]["digest"])["rootfs"]["diff_ids"]
    return [
        (blob(layer["digest"]), diff_id)
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    ]


@contextlib.asynccontextmanager
async def a_node(
    directory: Path, image: Served, choice: Choice, lists: Lists
) -> AsyncIterator[LazyMounts]:
    """Open a worker's mounts in a new directory."""
    await asyncio.to_thread(directory.mkdir)
    async with (
        open_session(TOKEN) as session,
        asyncio.TaskGroup() as tasks,
        open_lazy_mounts(
            directory,
            ImagecacheSource(StoreClient(session, lambda: image.url)),
            lambda: {"store": "imagecache", "urls": [image.url], "token": TOKEN},
            Clock(),
            lambda work, name: tasks.create_task(work, name=name),
            choice,
            Terms(hot_lists=lists),
        ) as mounts,
    ):
        await mounts.hold(image.tiny, "another")
        yield mounts


async def start(mounts: LazyMounts, image: Served, note: bool = False) -> Took:  # noqa: FBT001, FBT002
    """Start the program on a node; return what it took. `note`: its reads are what later starts fetch first."""
    began = time.perf_counter()
    held = await mounts.hold(image.digest, "benchmark")
    until_held = time.perf_counter() - began
    await asyncio.to_thread(run, held.root)
    took = Took(time.perf_counter() - began, until_held)
    if note:
        await mounts.started(image.digest, "benchmark")
    await mounts.release(image.digest, "benchmark")
    return took


def run(root: Path) -> None:
    """Run the program in a sandbox on a root."""
    command = [
        str(find_binary()), "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", str(root), "/",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/usr/bin/python3", "-c", PROGRAM,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr


def lazy_choice(directory: Path) -> Choice:
    """Return how this machine mounts lazily."""
    return choose(directory)
