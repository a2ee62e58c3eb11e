"""What COPY and ADD take of a context: a tar of only that, the same bytes every time.

Files are below `f/`, what is in directories below `d/`; where all of it goes is decided where the image is known. What
.dockerignore leaves out stays here, and no link leads out of the context.
"""

from __future__ import annotations

import glob
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from glowplug.dockerfile.ignoring import read_ignore
from glowplug.dockerfile.lines import DockerfileError

FILES_MAX = 50_000
BYTES_MAX = 2 * 1024**3
IGNORE = ".dockerignore"


def pack_sources(line: int, context: Path, sources: tuple[str, ...], *, unpacks: bool) -> bytes:
    """Return the tar of a COPY (or ADD, which `unpacks` tars). Raises: DockerfileError; OSError."""
    ignore = context / IGNORE
    is_left_out = read_ignore(ignore.read_text("utf-8") if ignore.is_file() else "")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        packing = _Packing(line, context.resolve(), is_left_out, archive, unpacks=unpacks)
        for source in sources:
            packing.add(source)
    return buffer.getvalue()


class _Packing:
    def __init__(
        self,
        line: int,
        context: Path,
        is_left_out: Callable[[str], bool],
        archive: tarfile.TarFile,
        *,
        unpacks: bool,
    ) -> None:
        self._line = line
        self._context = context
        self._is_left_out = is_left_out
        self._archive = archive
        self._unpacks = unpacks
        self._names: set[str] = set()
        self._bytes = 0

    def add(self, source: str) -> None:
        """Take what a source names."""
        found = 0
        for path in self._matches(source):
            inner = path.relative_to(self._context).as_posix()
            if inner != "." and self._is_left_out(inner) and not path.is_dir():
                continue
            found += 1
            if path.is_dir():
                self._add_folder(path)
            elif self._unpacks and tarfile.is_tarfile(path):
                self._unpack(path)
            else:
                self._add(path, f"f/{path.name}")
        if not found:
            raise self._error(
                f"{source!r} is not in {self._context}, or .dockerignore leaves it out"
            )

    def _matches(self, source: str) -> list[Path]:
        relative = source.lstrip("/") or "."
        pattern = str(Path(glob.escape(str(self._context))) / relative)
        paths = [Path(os.path.normpath(path)) for path in sorted(glob.glob(pattern))]  # noqa: PTH207 - a pattern with a path
        if "*" not in relative and not paths:
            paths = [path for path in [self._context / relative] if path.exists()]
        for path in paths:
            if not path.resolve().is_relative_to(self._context):
                raise self._error(f"{source!r} is outside of {self._context}")
        return [path.resolve() for path in paths]

    def _add_folder(self, folder: Path) -> None:
        self._add(folder, "d")
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(self._context).as_posix()
            if not self._is_left_out(inner) and inner != IGNORE:
                self._add(path, f"d/{path.relative_to(folder).as_posix()}")

    def _add(self, path: Path, name: str) -> None:
        entry = self._archive.gettarinfo(str(path), name)
        if entry is None or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
            return  # a socket or a device, which Docker leaves out too
        if entry.islnk():
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
        if entry.isreg():
            with path.open("rb") as file:
                self._write(entry, file)
        else:
            self._write(entry, None)

    def _unpack(self, path: Path) -> None:
        with tarfile.open(path) as opened:
            for member in opened:
                name = member.name.removeprefix("./").strip("/")
                if name in ("", "."):
                    continue
                member.name = f"d/{name}"
                if member.islnk():
                    member.linkname = f"d/{member.linkname.removeprefix('./')}"
                self._write(member, opened.extractfile(member) if member.isreg() else None)

    def _write(self, entry: tarfile.TarInfo, content: object) -> None:
        if entry.name in self._names:
            return  # the first of two sources that say the same, or a directory again
        self._names.add(entry.name)
        self._bytes += entry.size
        if len(self._names) > FILES_MAX or self._bytes > BYTES_MAX:
            raise self._error(f"over {FILES_MAX} files or {BYTES_MAX} bytes; use .dockerignore")
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.pax_headers = {}
        self._archive.addfile(entry, content)  # type: ignore[arg-type]

    def _error(self, message: str) -> DockerfileError:
        return DockerfileError(self._line, message)
