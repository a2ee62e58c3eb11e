"""Unpack a user's source archive into a directory, and never outside it.

A source is a zip that the SDK packed and the gateway stored; its digest is verified, its content is
the user's. Names, links, sizes and counts are checked before anything is written. Blocks.
"""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.manifests import check_path

ENTRIES_MAX = 20_000
BYTES_MAX = 2 * 1024 * 1024 * 1024
EXECUTABLE = 0o111
# What zipfile raises for an archive that is none, or lies.
UNUSABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)


def unpack_source(archive: Path, target: Path) -> None:
    """Unpack a zip into the new directory `target`.

    Raises: InvalidRequestError (request.invalid) naming what it may not hold.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check_members(members)
            target.mkdir()
            for member in members:
                _unpack(opened, member, target)
    except UNUSABLE as err:
        raise _unusable(err) from err
    except OSError as err:
        if err.errno != errno.EINVAL:  # a place before the beginning, which the archive names
            raise
        raise _unusable(err) from err
    target.chmod(0o755)


def _unusable(why: Exception) -> InvalidRequestError:
    return InvalidRequestError("request.invalid", f"the source is no usable zip: {why}")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    total = sum(member.file_size for member in members)
    if len(members) > ENTRIES_MAX or total > BYTES_MAX:
        raise InvalidRequestError(
            "request.too_large",
            f"the source has {len(members)} entries of {total} bytes; "
            f"at most {ENTRIES_MAX} of {BYTES_MAX} are unpacked",
        )
    seen: dict[str, bool] = {}  # whether it is a file
    for member in members:
        name = check_path(member.filename.rstrip("/"))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InvalidRequestError(
                "request.invalid", f"{name!r} in the source is a link or a device"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidRequestError(
                "request.invalid",
                f"{name!r} in the source is packed in a way that is not read: use deflate",
            )
        if name in seen:
            raise InvalidRequestError("request.invalid", f"{name!r} is in the source twice")
        seen[name] = not member.is_dir()
    for name in seen:
        for at in range(1, len(name)):
            if name[at] == "/" and seen.get(name[:at], False):
                raise InvalidRequestError(
                    "request.invalid", f"{name[:at]!r} is a file and a folder in the source"
                )


def _unpack(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    path = target / member.filename.rstrip("/")
    if member.is_dir():
        _make_folders(path, target)
        return
    _make_folders(path.parent, target)
    # zipfile stops at the declared size, which was summed up before.
    with opened.open(member) as source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
    executable = (member.external_attr >> 16) & EXECUTABLE
    path.chmod(0o755 if executable else 0o644)


def _make_folders(path: Path, root: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    while path != root:
        path.chmod(0o755)
        path = path.parent
