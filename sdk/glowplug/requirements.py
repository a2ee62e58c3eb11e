"""Requirement lines: as they are given, or as files have them. The platform gets lines, never a file's name.

What pip says in a line holds: versions, extras, markers, addresses, hashes, `${NAME}`, and options that name
indexes. Files that a line names are on this machine: those of `-r` are read, the others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

FILES = (".txt", ".in")
_COMMENT = re.compile(r"(^|\s)#.*\Z")
_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]*(.+)\Z")
_CONSTRAINT = re.compile(r"(?:-c|--constraint)")
_EDITABLE = re.compile(r"(?:-e|--editable)")
_LOCAL = re.compile(r"(?:[^@]*@\s*)?(?:\.{1,2}(?:/|\Z)|file:\.)")


def read_requirements(value: Sequence[str] | str) -> tuple[str, ...]:
    """Return requirement lines from a list, one line, or the path of a requirements file.

    Raises: ValueError or TypeError for what names files that the platform can't have; FileNotFoundError.
    """
    if isinstance(value, str) and value.endswith(FILES):
        return tuple(_lines_of(Path(value), ()))
    given = (value,) if isinstance(value, str) else value
    return tuple(_checked("python_packages", line) for line in given)


def _lines_of(path: Path, inside: tuple[Path, ...]) -> Iterator[str]:
    if path.resolve() in inside:
        raise ValueError(f"{path}: it includes itself; leave one -r line out")
    inside = (*inside, path.resolve())
    # A line that ends with a backslash goes on; editors may have put a mark before the first one.
    text = re.sub(r"\\\r?\n", " ", path.read_text("utf-8-sig"))
    for raw in text.splitlines():
        line = " ".join(_COMMENT.sub("", raw).split())
        if include := _INCLUDE.match(line):
            yield from _lines_of(path.parent / include[1], inside)
        elif line:
            yield _checked(str(path), line)


def _checked(where: str, line: object) -> str:
    if not isinstance(line, str) or not line.strip():
        raise ValueError(f"{where}: {line!r} must be a string that says something")
    line = line.strip()
    if _INCLUDE.match(line):
        raise ValueError(f'{where}: {line!r}: give the file\'s path itself, "requirements.txt"')
    if _CONSTRAINT.match(line):
        raise ValueError(
            f"{where}: {line!r}: constraints are not taken; write the versions into the requirements"
        )
    if _EDITABLE.match(line) or _LOCAL.match(line):
        raise ValueError(
            f"{where}: {line!r}: this machine's folders are not where images are built. Import the project "
            "from the program, which packs it, or add it with add_local_dir and install it with run_commands"
        )
    return line
