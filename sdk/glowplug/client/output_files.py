"""Outputs over the wire: files go up in parts, and come down whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glowplug.client.here import reach
from glowplug.client.loop import background
from glowplug.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from glowplug.client.http import Http

# Of one part; the platform takes no larger ones.
PART_BYTES = 4 * 1024 * 1024
READ_BYTES = 256 * 1024
# Zip files carry times; with one time for all, the same folder makes the same file in every attempt.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
LIST_PAGE = 200
BYTES_TYPE = "application/octet-stream"


async def save_path(path: Path, name: str) -> dict[str, Any]:
    """Keep a file or folder as an output of the task that runs here; return what was kept."""
    http = await reach()
    parts: list[str] = []
    pieces = _zipped(path) if path.is_dir() else _pieces(path)  # noqa: ASYNC240 - one look
    while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
        answer = await http.request(
            "POST", "/api/v1/outputs/parts", body=piece, headers={"Content-Type": BYTES_TYPE}
        )
        parts.append(answer.json()["digest"])
    saved: dict[str, Any] = await http.request_json(
        "POST", "/api/v1/outputs", {"name": name, "parts": parts}
    )
    return saved


async def public_url(output_id: str, expires: float) -> str:
    """Return a public address of an output."""
    http = await reach()
    path = f"/api/v1/outputs/{output_id}/url"
    return str((await http.request_json("POST", path, {"expires_s": expires}))["url"])


async def output_value(output_id: str) -> dict[str, Any]:
    """Return what the platform says of an output. Raises: NotFoundError."""
    http = await reach()
    found: dict[str, Any] = await http.request_json("GET", f"/api/v1/outputs/{output_id}")
    return found


def output_rows(task_id: str) -> Iterator[dict[str, Any]]:
    """Yield what the platform says of a task's outputs, newest first."""
    cursor: str | None = ""
    while cursor is not None:
        page = background().run(_page(task_id, cursor))
        yield from page["outputs"]
        cursor = page["cursor"]


async def _page(task_id: str, cursor: str) -> dict[str, Any]:
    http = await reach()
    params = {"task": task_id, "limit": str(LIST_PAGE)} | ({"cursor": cursor} if cursor else {})
    found: dict[str, Any] = await http.request_json("GET", "/api/v1/outputs", params=params)
    return found


async def delete_output(output_id: str) -> None:
    """Remove an output. Raises: NotFoundError."""
    http = await reach()
    await http.request("DELETE", f"/api/v1/outputs/{output_id}")


async def read_output(output_id: str) -> bytes:
    """Return an output's bytes. Raises: NotFoundError."""
    size = int((await output_value(output_id))["size"])
    sink = io.BytesIO()
    await _fetch(await reach(), output_id, size, sink)
    return sink.getvalue()


async def download_output(output_id: str, target: Path) -> Path:
    """Write an output to a file, or under its name into a folder; return the file."""
    found = await output_value(output_id)
    name = str(found["name"])
    if target.is_dir():  # noqa: ASYNC240 - one look
        if name != Path(name).name or name in {"", ".", ".."}:
            raise InvalidInputError(f"the platform names an output {name!r}; name a file to write")
        target = target / name
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as sink:
            await _fetch(await reach(), output_id, int(found["size"]), sink)
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return target


async def _fetch(http: Http, output_id: str, size: int, sink: Any) -> None:
    """Read an output into a file; what is there already is not asked for again after a break."""
    path = f"/api/v1/outputs/{output_id}/content"

    async def once(url: str) -> None:
        at = sink.tell()
        if at == size:
            return
        params = {"from": str(at)} if at else None
        async with http.open_stream(url, "GET", path, params=params) as response:
            async for piece in response.content.iter_any():
                sink.write(piece)
        if sink.tell() != size:
            raise UnavailableError(f"{output_id} has {size} bytes, and {sink.tell()} came")

    await http.retrying(once)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PART_BYTES):
            yield piece


class _Sink(io.RawIOBase):
    """Takes what a zip file's writer writes; it can't seek, so that nothing is changed afterwards."""

    def __init__(self) -> None:
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.held += data
        return len(data)

    def take(self, size: int) -> bytes:
        taken = bytes(self.held[:size])
        del self.held[:size]
        return taken


def _zipped(folder: Path) -> Iterator[bytes]:
    """Yield a folder's files as a zip file, in parts; nothing is written to this machine's disk."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (path.stat().st_mode & 0xFFFF) << 16
            with archive.open(info, "w", force_zip64=True) as entry, path.open("rb") as file:
                while piece := file.read(READ_BYTES):
                    entry.write(piece)
                    while len(sink.held) >= PART_BYTES:
                        yield sink.take(PART_BYTES)
    while sink.held:
        yield sink.take(PART_BYTES)
