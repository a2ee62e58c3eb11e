"""T15: bytes moved for the next version of an image, with 2 % of its files edited, against the bytes that changed.

The content is this environment's own packages; a line is added in the middle of files chosen by chance. Both ways into
the store are measured: an image of a registry, pulled and flattened by the cache service, and a build's layer,
pushed by a worker. Against them stand the edited files, each compressed alone; a tar of them compressed as one
is printed too, which is what a registry would be sent. The control is the cache service without its knowledge of
the first version: packs of small files are then made anew wherever one of their files was edited.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path

import uvloop
import zstandard
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.image import ImageManifest
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.store import Store
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.pack import pack_layer

from benchmarks.harness import a_directory, a_process, arguments, verdict
from benchmarks.peers.chunk_store import TOKEN

PROMISE = 1.5
SHARE = 0.02
LINE = b"\n# edited\n"
SEED = 15


def main() -> int:
    options = arguments(__doc__)
    directory = a_directory("edits")
    source = Path(sysconfig.get_path("purelib"))
    if options.quick:
        source = source / "aiohttp"
    layer = directory / "layer"
    shutil.copytree(source, layer / "site-packages", symlinks=True)
    pulled: dict[str, int] = {}
    first, before = pull(directory / "cache", layer)
    pull(directory / "without", layer)
    serve = (sys.executable, "-m", "benchmarks.peers.chunk_store", str(directory / "pushed"))
    with a_process(*serve) as served:
        url: str = served.first_line  # type: ignore[attr-defined]
        uvloop.run(push(url, layer))
        sent = stored_bytes(directory / "pushed")
        edited = edit(layer)
        uvloop.run(push(url, layer))
        pushed = stored_bytes(directory / "pushed") - sent
    _, after = pull(directory / "cache", layer, first)
    pulled["known"] = after - before
    _, after = pull(directory / "without", layer)
    pulled["control"] = after - before
    changed = sum(len(compressed(data)) for data in edited.values())
    as_tar = len(compressed(tar_of(edited)))
    files = sum(path.is_file() for path in layer.rglob("*"))
    print(f"{files} files; {len(edited)} edited, {sum(map(len, edited.values())):,} bytes")
    print(f"{'the edited files, each compressed':42}{changed:>12,} bytes")
    print(
        f"{'the edited files, compressed as one tar':42}{as_tar:>12,} bytes{as_tar / changed:>8.2f}x"
    )
    for name, size in (
        ("an image of a registry, new in the store", pulled["known"]),
        ("the same, first version not known (control)", pulled["control"]),
        ("a build's layer, pushed by a worker", pushed),
    ):
        print(f"{name:42}{size:>12,} bytes{size / changed:>8.2f}x")
    failed = 0
    for name, size in (("of a registry", pulled["known"]), ("of a build", pushed)):
        failed |= verdict(
            f"the next version of an image {name} moves at most {PROMISE} times the bytes that changed",
            size <= PROMISE * changed,
            {
                "ratio": round(size / changed, 2),
                "bytes": size,
                "changed": changed,
                "control": round(pulled["control"] / changed, 1),
            },
        )
    return failed


def edit(root: Path) -> dict[str, bytes]:
    """Add a line to some files; return them as they are now."""
    chance = random.Random(SEED)
    every = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    chosen = chance.sample(every, round(len(every) * SHARE))
    found = {}
    for path in chosen:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + LINE + data[len(data) // 2 :])
        found[str(path.relative_to(root))] = path.read_bytes()
    return found


def pull(root: Path, layer: Path, *like: Digest) -> tuple[Digest, int]:
    """Take a directory into a cache service's store as an image's layer; return its tree and the store's bytes."""
    store = Store(root, free_bytes_min=0, blob_bytes_max=1 << 32)
    tar = root / "layer.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(layer, ".")
    digest = "sha256:" + hashlib.sha256(tar.read_bytes()).hexdigest()
    flat = flatten_layers(store, [(tar, digest)], like=like)
    tar.unlink()
    return flat.digest, stored_bytes(root)


async def push(url: str, layer: Path) -> None:
    async with open_session(TOKEN) as session:
        about = ImageManifest(host="", python_version="3.11", env={}, entries=())
        client = StoreClient(session, lambda: url)
        committed = await pack_layer(client, layer, about, (str(layer),))
        assert committed.error is None, committed.error


def stored_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "chunks").glob("*/*"))


def compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
