"""Bring what a container needs to this host: interpreter, image, source, code by value."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.container import BindContainer, ContainerKind

from glowplug_worker.launch import Brought
from glowplug_worker.ports import BuildNeeds, Interpreter, LocalImage
from glowplug_worker.workshop import Workshop

T = TypeVar("T")

# An imagecache that restarts is back in seconds; callers should not see that it was away.
PULL_TRIES_S: Final = 60.0
PULL_PAUSE_S: Final = 0.25


async def bring(workshop: Workshop, binding: BindContainer, directory: Path) -> Brought:
    """Return where everything lies now. Raises: PlatformError for what can't be brought."""
    spec = binding.spec
    _make_directory(directory)
    image: LocalImage | None = None
    needs: BuildNeeds | None = None
    if spec.image_digest:
        image = await patiently(workshop, lambda: workshop.images.ensure(spec.image_digest))
    interpreter = _interpreter(
        workshop, spec.base_python or (image.python_version if image else "")
    )
    if spec.kind is ContainerKind.BUILD:
        needs = await workshop.images.prepare_build(
            binding.container_id,
            spec.workspace,
            spec.image_digest,
            directory,
            interpreter.executable,
            mounts=workshop.backend.mounts,
        )
    source, ref = None, spec.source
    if ref is not None and ref.blob is not None:
        blob = ref.blob
        source = await patiently(workshop, lambda: workshop.images.ensure_source(blob))
    return Brought(
        interpreter=interpreter,
        image=image,
        needs=needs,
        source=source,
        pickled=await _blob(workshop, ref.pickled if ref else None),
        on_start_pickled=await _blob(workshop, ref.on_start_pickled if ref else None),
    )


def remove_directory(directory: Path) -> None:
    """Remove a container's directory with everything in it."""
    shutil.rmtree(directory, ignore_errors=True)


def _make_directory(directory: Path) -> None:
    directory.mkdir(parents=True, mode=0o755)
    (directory / "scratch").mkdir(mode=0o755)


def _interpreter(workshop: Workshop, version: str) -> Interpreter:
    found = workshop.pythons.find(version)
    if found is None:
        offered = ", ".join(workshop.pythons.versions())
        raise RejectedError(
            "image.unsupported",
            f"this worker has no Python {version}; it has {offered}. Install it, or take another "
            "python_version",
        )
    return found


async def _blob(workshop: Workshop, digest: Digest | None) -> bytes:
    if digest is None:
        return b""
    return await patiently(workshop, lambda: workshop.blobs.get(digest))


async def patiently(workshop: Workshop, fetch: Callable[[], Awaitable[T]]) -> T:
    """Fetch, and again while the platform can't. Raises: UnavailableError after PULL_TRIES_S."""
    give_up_at = workshop.clock.now() + PULL_TRIES_S
    while True:
        try:
            return await fetch()
        except UnavailableError:
            if workshop.clock.now() >= give_up_at:
                raise
            await asyncio.sleep(PULL_PAUSE_S)
