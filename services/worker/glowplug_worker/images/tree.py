"""Writing and reading directory trees that may be hostile, without ever leaving them.

Fetching writes a tree that nobody else can reach yet. Packing reads a build container's layer while its
processes may still live and swap directories for links, so every step is taken from a descriptor of
the directory before it, and no link is followed. All of it blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import (
    ENTRIES_MAX,
    ChunkFrame,
    check_link,
    check_path,
    plan_pieces,
)
from glowplug_contracts.messages.image import ChunkRef, ManifestEntry

from glowplug_worker.images.objects import digest_of, raw_form

# What a container of another user must be able to do with an image's files.
FILE_MODE_MIN = 0o444
DIR_MODE_MIN = 0o555
DIR_MODE = 0o755
# Only the worker writes to extracted images.
MODE_KEPT = 0o755
LAYER_BYTES_MAX = 64 * 1024 * 1024 * 1024

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_DIR = _READ | os.O_DIRECTORY


class TreeWriter:
    """Writes an image's files below `root` as their chunks arrive, in any order.

    Links are made and modes set by `finish`, so that no write goes through a link or is refused.
    """

    def __init__(self, root: Path, entries: Sequence[ManifestEntry]) -> None:
        self._root = root
        self._entries = entries
        self._places: dict[Digest, list[tuple[str, int]]] = {}
        root.mkdir()
        for entry in sorted(entries, key=lambda entry: entry.path):
            path = root / entry.path
            if entry.kind == "dir":
                path.mkdir()
            elif entry.kind == "file" and not entry.chunks:
                path.touch(exist_ok=False)
            for chunk in entry.chunks:
                self._places.setdefault(chunk.digest, []).append((entry.path, chunk.offset))

    def write(self, frames: Sequence[ChunkFrame]) -> None:
        """Verify chunks and put them wherever the image has them. Raises: ContractError."""
        for frame in frames:
            data = raw_form(frame.digest, frame.stored or b"")
            for path, offset in self._places.pop(frame.digest, ()):
                descriptor = os.open(self._root / path, os.O_WRONLY | os.O_CREAT, 0o600)
                try:
                    os.pwrite(descriptor, data, offset)
                finally:
                    os.close(descriptor)

    def finish(self) -> None:
        """Make the links and set the modes, deepest first. Every chunk must have been written."""
        self._root.chmod(DIR_MODE)
        assert not self._places, f"{len(self._places)} chunks lack"  # noqa: S101 - the fetcher's bug
        for entry in sorted(self._entries, key=lambda entry: entry.path, reverse=True):
            path = self._root / entry.path
            if entry.kind == "link":
                path.symlink_to(entry.target)
            elif entry.kind == "file":
                path.chmod(entry.mode & MODE_KEPT | FILE_MODE_MIN)
            else:
                path.chmod(entry.mode & MODE_KEPT | DIR_MODE_MIN)


class LayerReader:
    """Reads a build container's layer.

    `layer_paths` are how the container may spell its layer's root ("/layer"): absolute links to there
    are rewritten as relative ones, since other containers may see the layer elsewhere.
    """

    def __init__(self, root: Path, layer_paths: Sequence[str]) -> None:
        self._layer_paths = [path.rstrip("/") for path in layer_paths]
        self._root = os.open(root, _READ_DIR)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._root)

    def entries(self) -> list[ManifestEntry]:
        """Return everything in the layer, hashed.

        Raises: InvalidRequestError (request.invalid) naming what an image can't hold.
        """
        found: list[ManifestEntry] = []
        total = 0
        for entry in self._walk(self._root, ""):
            found.append(entry)
            total += entry.size
            if len(found) > ENTRIES_MAX or total > LAYER_BYTES_MAX:
                raise InvalidRequestError(
                    "request.invalid",
                    f"the image has over {ENTRIES_MAX} entries or {LAYER_BYTES_MAX} bytes",
                )
        return found

    def piece(self, path: str, ref: ChunkRef) -> bytes:
        """Return one chunk's bytes, read again. Raises: InvalidRequestError if they changed."""
        with contextlib.ExitStack() as stack:
            descriptor = self._root
            *folders, name = path.split("/")
            for folder in folders:
                descriptor = os.open(folder, _READ_DIR, dir_fd=descriptor)
                stack.callback(os.close, descriptor)
            file = os.open(name, _READ, dir_fd=descriptor)
            stack.callback(os.close, file)
            data = os.pread(file, ref.size, ref.offset)
        if digest_of(data) != ref.digest:
            raise _unfit(path, "changed while the image was being stored")
        return data

    def _walk(self, folder: int, prefix: str) -> Iterator[ManifestEntry]:
        for name in sorted(os.listdir(folder)):
            path = check_path(prefix + name)
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            mode = facts.st_mode & MODE_KEPT
            if stat.S_ISDIR(facts.st_mode):
                yield ManifestEntry(path=path, kind="dir", mode=mode)
                with _opened(name, _READ_DIR, folder) as inner:
                    yield from self._walk(inner, path + "/")
            elif stat.S_ISREG(facts.st_mode):
                yield _file_entry(path, mode, name, folder)
            elif stat.S_ISLNK(facts.st_mode):
                target = self._relative(path, os.readlink(name, dir_fd=folder))
                yield ManifestEntry(path=path, kind="link", mode=0o777, target=target)
            else:
                raise _unfit(path, "is a socket, pipe or device; images hold files and links")

    def _relative(self, path: str, target: str) -> str:
        for layer_path in self._layer_paths:
            if f"{target}/".startswith(layer_path + "/"):
                inside = target[len(layer_path) :].strip("/")
                target = "../" * path.count("/") + (inside or ".")
        return check_link(path, target)


def copy_tree(source: Path, target: Path) -> None:
    """Copy an extracted image to a new directory that a build may change."""
    shutil.copytree(source, target, symlinks=True)
    for folder, _, files in os.walk(target):
        Path(folder).chmod(DIR_MODE)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200)


def _file_entry(path: str, mode: int, name: str, folder: int) -> ManifestEntry:
    chunks: list[ChunkRef] = []
    with _opened(name, _READ, folder) as file:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise _unfit(path, "changed while the image was being stored")
        for offset, size in plan_pieces(facts.st_size):
            data = os.pread(file, size, offset)
            if len(data) != size:
                raise _unfit(path, "changed while the image was being stored")
            chunks.append(ChunkRef(digest=digest_of(data), offset=offset, size=size))
    return ManifestEntry(
        path=path, kind="file", mode=mode, size=facts.st_size, chunks=tuple(chunks)
    )


@contextlib.contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except PermissionError as err:
        raise _unfit(name, "can't be read: a command took away the rights to it") from err
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unfit(path: str, why: str) -> InvalidRequestError:
    return InvalidRequestError("request.invalid", f"path {path[:200]!r} {why}")
