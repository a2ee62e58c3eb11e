"""Large bytes: named by their BLAKE3, stored before anything refers to them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from glowplug.errors import NotFoundError

if TYPE_CHECKING:
    from glowplug.client.http import Http

NOT_FOUND = 404


async def put_blob(http: Http, data: bytes, *, look_first: bool) -> str:
    """Store some bytes and return their digest; `look_first` where they are likely there already."""
    from blake3 import blake3  # noqa: PLC0415 - not in containers

    digest = blake3(data).hexdigest()
    path = f"/api/v1/blobs/{digest}"
    if look_first:
        answer = await http.request("HEAD", path, fine=(NOT_FOUND,))
        if answer.status != NOT_FOUND:
            return digest
    await http.request("PUT", path, body=data, headers={"Content-Type": "application/octet-stream"})
    return digest


async def get_blob(http: Http, digest: str) -> bytes:
    """Return the bytes that a digest names.

    Raises: NotFoundError if the platform no longer has them.
    """
    answer = await http.request("GET", f"/api/v1/blobs/{digest}", fine=(NOT_FOUND,))
    if answer.status == NOT_FOUND:
        raise NotFoundError(
            f"the bytes {digest[:16]}… are no longer kept", code="invocation.not_found"
        )
    return answer.body


def tar_of(path: Path, name: str) -> bytes:
    """Return a tar of a file or folder that is called `name` inside, the same bytes every time.

    Raises: FileNotFoundError.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; the image's add_local_… names it")
        for found in [path, *(sorted(path.rglob("*")) if path.is_dir() else [])]:
            if "__pycache__" in found.parts or (found.is_symlink() and found.is_dir()):
                continue
            inner = name if found == path else f"{name}/{found.relative_to(path).as_posix()}"
            entry = archive.gettarinfo(str(found.resolve()), inner)
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            if found.is_file():
                with found.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    return buffer.getvalue()
