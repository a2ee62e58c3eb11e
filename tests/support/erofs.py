"""EROFS images by the kernel: devices filled, mounted with mount(2), and read back by a walk of its own.

The walk knows nothing of manifests: it asks the file system, and returns values that are equal for equal
trees, whatever the inodes' numbers are.
"""

# ruff: noqa: PTH115, PTH118 - names are bytes here, which are no text

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
from glowplug_worker.images.erofs import ErofsImage, build_image
from glowplug_worker.images.flat_objects import Flattened, read_pack, read_piece
from glowplug_worker.images.flatten import flatten

MS_READ_ONLY = 1
IDENTITY = bytes(range(16))
BLOCK = 64 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)


# Which kernels mount files, and which know 48-bit addresses.
MOUNTS_FILES = (6, 12)
KNOWS_48BIT = (6, 15)
CAP_SYS_ADMIN = 1 << 21


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def kernel_mounts_erofs() -> bool:
    """Whether this process may mount an EROFS image that is a file."""
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    allowed = bool(int(mask, 16) & CAP_SYS_ADMIN)
    return allowed and "\terofs\n" in filesystems and kernel() >= MOUNTS_FILES


class Files(msgspec.Struct, frozen=True):
    """The three files of an image."""

    metadata: Path
    packs: Path
    pieces: Path


def write_image(root: Path, directory: Path) -> tuple[Flattened, Files]:
    """Flatten a tree, build its image and fill its devices."""
    flattened = flatten(root)
    image = build_image(flattened.tree, IDENTITY)
    return flattened, write_files(root, flattened, image, directory)


def write_files(
    root: Path,
    flattened: Flattened,
    image: ErofsImage,
    directory: Path,
    roomy: Path | None = None,
) -> Files:
    """Write the three files. `roomy`: where the devices go, if elsewhere."""
    directory.mkdir(parents=True, exist_ok=True)
    apart = roomy or directory
    files = Files(directory / "metadata", apart / "packs", apart / "pieces")
    files.metadata.write_bytes(image.metadata)
    for path, device, read in (
        (files.packs, image.packs, read_pack),
        (files.pieces, image.pieces, read_piece),
    ):
        with path.open("wb") as file:
            file.truncate(device.size)
            for number in range(len(device.starts)):
                os.pwrite(file.fileno(), read(root, flattened, number), device.offset_of(number))
    return files


@contextlib.contextmanager
def mounted(files: Files, target: Path, *, devices: bool = True) -> Iterator[Path]:
    """Mount an image while this lasts."""
    target.mkdir(parents=True, exist_ok=True)
    options = f"device={files.packs},device={files.pieces}" if devices else ""
    call(
        _LIBC.mount(
            os.fsencode(files.metadata),
            os.fsencode(target),
            b"erofs",
            ctypes.c_ulong(MS_READ_ONLY),
            options.encode(),
        ),
        "mount",
    )
    try:
        yield target
    finally:
        call(_LIBC.umount2(os.fsencode(target), 0), "umount")


def call(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Found(msgspec.Struct, frozen=True):
    """What the file system says about one path."""

    kind: int
    mode: int
    uid: int
    gid: int
    links: int
    same: tuple[bytes, ...]
    mtime_ns: int
    size: int
    content: str
    xattrs: dict[bytes, bytes]


def walk(root: Path) -> dict[bytes, Found]:
    """Return everything below `root`, and `root` itself as b""."""
    top = os.fsencode(root)
    paths = [b""]
    for folder, folders, names in os.walk(top, onerror=_raise):
        inner = os.path.relpath(folder, top)
        paths += [os.path.normpath(os.path.join(inner, name)) for name in folders + names]
    inodes: dict[int, list[bytes]] = {}
    for path in paths:
        inodes.setdefault(os.lstat(os.path.join(top, path)).st_ino, []).append(path)
    return {path: _found(top, path, inodes) for path in sorted(paths)}


def _found(top: bytes, path: bytes, inodes: dict[int, list[bytes]]) -> Found:
    full = os.path.join(top, path)
    facts = os.lstat(full)
    kind = stat.S_IFMT(facts.st_mode)
    directory = stat.S_ISDIR(facts.st_mode)
    folders = (
        sum(entry.is_dir(follow_symlinks=False) for entry in os.scandir(full)) if directory else 0
    )
    return Found(
        kind=kind,
        mode=stat.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
        # Some file systems count a directory's differently; what counts here is that ours is right.
        links=2 + folders if directory and facts.st_nlink == 1 else facts.st_nlink,
        same=tuple(sorted(inodes[facts.st_ino])),
        mtime_ns=facts.st_mtime_ns,
        size=0 if directory else facts.st_size,
        content=_content(full, facts),
        xattrs={
            os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
            for name in os.listxattr(full, follow_symlinks=False)
        },
    )


def _content(full: bytes, facts: os.stat_result) -> str:
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(full).decode("utf-8", "backslashreplace")
    if not stat.S_ISREG(facts.st_mode):
        return ""
    hashed = hashlib.sha256()
    file = os.open(full, os.O_RDONLY)
    try:
        for at in _blocks_with_data(file, facts.st_size):
            data = os.pread(file, BLOCK, at)
            if data.strip(b"\0"):
                hashed.update(b"%d:" % at + data)
    finally:
        os.close(file)
    return hashed.hexdigest()


def _blocks_with_data(file: int, size: int) -> Iterator[int]:
    at = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError:
            return
        yield at
        at += BLOCK


def _raise(error: OSError) -> None:
    raise error
