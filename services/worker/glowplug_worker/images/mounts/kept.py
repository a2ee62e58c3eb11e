"""What was fetched of trees that are not mounted now: kept on the disk until its room is wanted. Blocks.

    kept/<digest>/{tree,packs,pieces}   as they were while it was mounted; the directory's time says since when

A device goes in and out by its name, and only if nobody else has it open: a mount that is still read, in whatever
namespace, may have somebody who waits for its content. What is in it is hashed before it counts, so what a power cut
tore is fetched again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import ContractError, InvalidRequestError
from glowplug_contracts.ids import Digest, check_digest

from glowplug_worker.images.mounts import kernel
from glowplug_worker.images.mounts.files import Home
from glowplug_worker.images.objects import check_blob, digest_of
from glowplug_worker.runtime.leftovers import unmount_below

# The holder of a killed worker unmounts, and ends; what it still has open then is not taken over.
LEFT_S: Final = 2.0
_LOOK_S: Final = 0.02
_BLOCK: Final = 512
_PRIVATE: Final = 0o700
# What a worker's own directory is called.
RUN: Final = "run-"


class Kept:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "kept"
        directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        self._directory.mkdir(mode=_PRIVATE, exist_ok=True)

    def take(self, digest: Digest) -> Home | None:
        """Return the files of a tree, whose owner the caller is from now on."""
        home = Home(self._directory / digest)
        return home if home.tree.is_file() else None

    def put(
        self, home: Home, digest: Digest, give_up_at: float, used_at: float | None = None
    ) -> bool:
        """Keep a home's files, unless somebody has them open until then; its directory goes in any case.

        Args:
            give_up_at: monotonic seconds.
            used_at: since when nobody holds it, Unix seconds; None = now.
        """
        target = self._directory / digest
        shutil.rmtree(target, ignore_errors=True)
        while not (kept := all(map(_is_alone, home.devices))) and time.monotonic() < give_up_at:
            time.sleep(_LOOK_S)
        if kept and home.tree.is_file():
            new = target.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=_PRIVATE)
            for path in (home.tree, *home.devices):
                path.rename(new / path.name)
            new.rename(target)
            if used_at is not None:
                os.utime(target, (used_at, used_at))
        shutil.rmtree(home.path, ignore_errors=True)
        return kept

    def manifest(self, digest: Digest) -> bytes | None:
        """Return the manifest of a tree that is kept, if it is what its name says."""
        try:
            return check_blob(digest, (self._directory / digest / "tree").read_bytes())
        except (OSError, ContractError):
            return None

    def drop(self, digest: Digest) -> None:
        """Remove a tree's files."""
        shutil.rmtree(self._directory / digest, ignore_errors=True)

    def entries(self) -> Iterator[tuple[Digest, int, float]]:
        """Yield what is kept: its digest, its bytes on the disk, and since when (Unix seconds)."""
        for path in self._directory.iterdir():
            with contextlib.suppress(OSError, InvalidRequestError):
                yield Digest(check_digest(path.name)), bytes_of(Home(path)), path.stat().st_mtime


def salvage(directory: Path, kept: Kept) -> None:
    """Unmount what earlier workers left in their directories (`run-…`), and keep what was fetched.

    Their containers are gone, but their holder may still be about to end.
    """
    give_up_at = time.monotonic() + LEFT_S
    if not unmount_below(directory):
        return  # somebody reads what can't be unmounted: it stays where it is
    for run in directory.glob(f"{RUN}*"):
        for path in run.iterdir():
            home = Home(path)
            with contextlib.suppress(OSError):
                kept.put(home, digest_of(home.tree.read_bytes()), give_up_at)
        shutil.rmtree(run, ignore_errors=True)


def bytes_of(home: Home) -> int:
    """Return what a tree takes on the disk."""
    found = 0
    for path in (home.tree, home.metadata, *home.devices):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_blocks * _BLOCK
    return found


def _is_alone(path: Path) -> bool:
    """Return whether nobody has a device open; False if there is none."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not kernel.opened_elsewhere(file)
    finally:
        os.close(file)
