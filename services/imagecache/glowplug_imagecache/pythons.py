"""Finds the Python of an image in its tree, without running anything of it. Pure.

Names say the version: `python3` is a link to `python3.12` almost everywhere, and its library is in
`lib/python3.12`. What is found is told; what the runner can't use is refused with a sentence.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

import msgspec
from glowplug_contracts.errors import RejectedError
from glowplug_contracts.trees import (
    AnyEntry,
    File,
    FlatTree,
    HardLink,
    PackedFile,
)

from glowplug_imagecache.tree_paths import TreePaths

# What the runner in containers needs.
MINOR_MIN: Final = 11
PATH_USUAL: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FOLDERS_MAX: Final = 64
_NAMED: Final = re.compile(r"python3\.(\d{1,2})\Z")
_EXECUTABLE: Final = 0o111


class FoundPython(msgspec.Struct, frozen=True, kw_only=True):
    """An interpreter. Attributes: executable: as it is found on PATH; version: "3.12"."""

    executable: str
    version: str


def find_python(tree: FlatTree, path: str, wanted: str = "") -> FoundPython:
    """Return the interpreter of an image that runs its code.

    Args:
        path: the image's PATH; "" = the usual one.
        wanted: a minor version, "" = whatever `python3` is there.

    Raises: RejectedError (image.unsupported) saying which were found.
    """
    files = _Files(tree)
    found: dict[str, FoundPython] = {}
    for folder in (path or PATH_USUAL).split(":")[:FOLDERS_MAX]:
        if not folder.startswith("/"):
            continue
        for name in ("python3", "python", *files.names(folder)):
            version = files.version(posixpath.join(folder, name))
            if version and version not in found:
                executable = posixpath.normpath(posixpath.join(folder, name))
                found[version] = FoundPython(executable=executable, version=version)
    usable = [one for one in found.values() if int(one.version.partition(".")[2]) >= MINOR_MIN]
    for one in usable:
        if wanted in ("", one.version):
            return one
    there = ", ".join(found) or "none"
    if wanted and usable:
        raise RejectedError(
            "image.unsupported",
            f"python_version {wanted!r} is not in the image, which has Python {there}: leave it out, or "
            "take an image that has it",
        )
    raise RejectedError(
        "image.unsupported",
        f"the image has no Python that the platform can run code with (3.{MINOR_MIN} or later on its PATH); "
        f"found: {there}. Take one that has it, python:3.12-slim for example",
    )


def find_any_python(tree: FlatTree, path: str, wanted: str = "") -> FoundPython:
    """Return what `find_python` does, or one without a name where steps to come may still bring it."""
    try:
        return find_python(tree, path, wanted)
    except RejectedError:
        return FoundPython(executable="", version="")


class _Files(TreePaths):
    """Looks paths up in a tree, links followed, within the root."""

    def names(self, folder: str) -> list[str]:
        """Return the names of interpreters in a directory that say their version, the highest first."""
        number = self._lookup(folder)
        names = self._children.get(number, {}) if number is not None else {}
        versions = [
            int(match[1]) for name in names if (match := _NAMED.match(name.decode("latin-1")))
        ]
        return [f"python3.{minor}" for minor in sorted(versions, reverse=True)]

    def version(self, path: str) -> str:
        """Return the version of the interpreter at a path, "" where there is none that can be told."""
        number = self._lookup(path)
        entry = None if number is None else self._file(number)
        if number is None or entry is None or not entry.mode & _EXECUTABLE:
            return ""
        names = [self._entries[number].name, *self._other_names(number)]
        for name in names:
            if match := _NAMED.match(name.decode("latin-1")):
                return f"3.{int(match[1])}"
        return ""

    def _file(self, number: int) -> File | PackedFile | None:
        entry = self._entries[number]
        if isinstance(entry, HardLink):
            entry = self._entries[entry.target]
        return entry if isinstance(entry, File | PackedFile) else None

    def _other_names(self, number: int) -> list[bytes]:
        """Return the other names of the same file in its directory (`python3` hard-linked)."""
        own = self._target(self._entries[number], number)
        beside = self._children.get(self._entries[number].parent, {})
        return [
            name
            for name, other in beside.items()
            if other != number and self._target(self._entries[other], other) == own
        ]

    @staticmethod
    def _target(entry: AnyEntry, number: int) -> int:
        return entry.target if isinstance(entry, HardLink) else number

    def _lookup(self, path: str) -> int | None:
        return self.find(path.encode())
