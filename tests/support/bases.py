"""Small images with a Python, for tests that pull them, and what pulls them without a service."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from glowplug_contracts.messages.image import ImageManifest
from glowplug_imagecache import bases
from glowplug_imagecache.bases import Bases
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.registry.endpoints import Registries
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.store import Store
from glowplug_runtime.clock import Clock

from tests.support.layers import tar_of
from tests.support.registry_client import HERE, QUICK

PYTHON = "usr/local/bin/python3.12"


def a_layer(
    files: Mapping[str, bytes],
    links: Mapping[str, str] | None = None,
    *,
    python: str = PYTHON,
    shut: Sequence[str] = (),
) -> bytes:
    """Return a layer's tar.

    Args:
        python: an executable in it, with a link as usual beside it.
        shut: directories that only their owner may enter.
    """
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    for name in shut:
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        members.append((folder, b""))
    members += [(tarfile.TarInfo(name), content) for name, content in files.items()]
    if python:
        binary = tarfile.TarInfo(python)
        binary.mode = 0o755
        members.append((binary, b"\x7fELF, nearly"))
        links = {f"{python.rpartition('/')[0]}/python3": Path(python).name, **(links or {})}
    for name, target in (links or {}).items():
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, target
        members.append((link, b""))
    return tar_of(members)


@contextlib.asynccontextmanager
async def open_bases(
    store: Store, data_dir: Path, *, bounds: Bounds | None = None, free_bytes_min: int = 0
) -> AsyncIterator[Bases]:
    """Yield what pulls, from registries of this host too, without long pauses."""
    async with bases.open_bases(
        store,
        data_dir,
        Clock(),
        Registries(networks=HERE),
        patience=QUICK,
        bounds=bounds or Bounds(),
        free_bytes_min=free_bytes_min,
    ) as opened:
        yield opened


async def pulled(
    opened: Bases,
    name: str,
    *,
    platform: str = "linux/amd64",
    python_version: str = "",
    logins: Mapping[str, Credentials] | None = None,
    said: list[str] | None = None,
) -> ImageManifest:
    """Find and pull an image, as a build does."""
    heard = said if said is not None else []

    async def say(text: str) -> None:
        heard.append(text)

    found = await opened.find(name, platform, logins or {})
    return await opened.pull(found, python_version, logins or {}, say)
