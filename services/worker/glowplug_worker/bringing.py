"""Bring what a container needs to this host: interpreter, image, source, code by value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

import structlog
from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.ids import Digest, check_name, check_token
from glowplug_contracts.messages.container import BindContainer, ContainerKind, ContainerSpec
from glowplug_runtime.trees import remove_tree

from glowplug_worker.launch import Brought
from glowplug_worker.models import hold_models
from glowplug_worker.ports import Bind, BuildNeeds, HostPython, Interpreter, LocalBase, LocalImage
from glowplug_worker.runtime.rooted.hostpython import host_python
from glowplug_worker.workshop import Workshop

T = TypeVar("T")
log = structlog.get_logger(__name__)

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
        image = await patiently(
            workshop, lambda: workshop.images.ensure(spec.image_digest, binding.container_id)
        )
    rooted: HostPython | None = None
    if spec.writes_root:
        interpreter, rooted = await _host_python(workshop, image)
    elif image is not None and image.base is not None:
        interpreter = _image_python(workshop, image, image.base)
    else:
        interpreter = _interpreter(
            workshop, spec.base_python or (image.python_version if image else "")
        )
    if spec.kind is ContainerKind.BUILD:
        needs = await workshop.images.prepare_build(
            binding.container_id,
            spec.workspace,
            spec.image_digest,
            directory,
            _python_of(image) if rooted is not None else interpreter.executable,
            mounts=workshop.backend.mounts,
        )
    source, ref = None, spec.source
    if ref is not None and ref.blob is not None:
        blob = ref.blob
        source = await patiently(
            workshop, lambda: workshop.images.ensure_source(blob, spec.workspace)
        )
    volumes: tuple[Bind, ...] = ()
    trees: tuple[Digest, ...] = ()
    if spec.volumes:
        volumes = await asyncio.to_thread(find_volumes, workshop.volumes_dir, spec)
    if spec.models:
        models = await patiently(
            workshop, lambda: hold_models(workshop, spec, binding.container_id)
        )
        volumes = (*volumes, *(model.bind for model in models))
        trees = tuple(model.tree for model in models)
    return Brought(
        interpreter=interpreter,
        image=image,
        needs=needs,
        source=source,
        volumes=volumes,
        trees=trees,
        rooted=rooted,
        pickled=await _blob(workshop, spec, ref.pickled if ref else None),
        on_start_pickled=await _blob(workshop, spec, ref.on_start_pickled if ref else None),
        on_exit_pickled=await _blob(workshop, spec, ref.on_exit_pickled if ref else None),
    )


def find_volumes(root: Path | None, spec: ContainerSpec) -> tuple[Bind, ...]:
    """Return the binds of a container's volumes. Raises: RejectedError if one is not on this machine."""
    binds = []
    for mount in spec.volumes:
        source = (
            None if root is None else root / check_token(spec.workspace) / check_name(mount.name)
        )
        if source is None or source.is_symlink() or not source.is_dir():
            raise RejectedError(
                "volume.not_here",
                f"volume {mount.name} is not on this worker's machine: volumes are directories of one "
                "machine, or of a file system that all of them mount",
            )
        binds.append(
            Bind(source=source, target=mount.path, writable=not mount.read_only, shared=True)
        )
    return tuple(binds)


def remove_directory(directory: Path) -> None:
    """Remove a container's directory with everything in it, whatever its code has made of it."""
    try:
        remove_tree(directory)
    except OSError as error:  # the next start of the worker tries again
        log.warning("directory.left", directory=str(directory), error=str(error))


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


def _image_python(workshop: Workshop, image: LocalImage, base: LocalBase) -> Interpreter:
    """Return the interpreter of an image that brings its own; its paths are inside."""
    if not workshop.backend.mounts:
        raise RejectedError(
            "image.unsupported",
            f"this worker's containers ({workshop.backend.name}) have no root of their own, and an image of "
            "a registry is one: start workers where bubblewrap or an OCI runtime works (`glowplug doctor` "
            "says why it does not here)",
        )
    executable = PurePosixPath(base.python)
    return Interpreter(
        version=image.python_version,
        executable=Path(executable),
        prefix=Path(executable.parent.parent),
    )


async def _host_python(
    workshop: Workshop, image: LocalImage | None
) -> tuple[Interpreter, HostPython]:
    """Return what drives a build that changes its root. Raises: RejectedError, UnavailableError."""
    if image is None or image.base is None:
        raise RejectedError(
            "image.unsupported", "only an image of a registry has a root that a build can change"
        )
    workshop.rooted.check()
    interpreter = _interpreter(workshop, "")
    return interpreter, await asyncio.to_thread(host_python, interpreter)


def _python_of(image: LocalImage | None) -> Path:
    """Return the interpreter of an image, which may get one only later."""
    return Path(image.base.python if image is not None and image.base is not None else "")


async def _blob(workshop: Workshop, spec: ContainerSpec, digest: Digest | None) -> bytes:
    if digest is None:
        return b""
    return await patiently(workshop, lambda: workshop.blobs.get(digest, spec.workspace))


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
